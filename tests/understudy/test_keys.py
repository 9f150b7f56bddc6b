"""API keys: made at random, written and read back, and never shown by accident."""

import hashlib
import re

import pytest

from understudy import keys


def test_a_key_is_read_back_as_it_was_made():
    """The id and the secret come out of the text that its owner keeps."""
    made = keys.generate()

    text = keys.write(made)

    assert re.fullmatch(r"us_[0-9a-f]{12}_[0-9a-f]{64}", text)
    assert keys.read(text.encode()) == made


def test_no_two_keys_are_alike():
    """Neither in their ids nor in their secrets."""
    made = [keys.generate() for _ in range(1000)]

    assert len({one.id for one in made}) == len({one.secret for one in made}) == 1000


def test_what_is_kept_is_the_sha256_of_the_secret():
    """32 bytes, from which nobody comes back to the secret."""
    assert keys.read(b"us_1_abc").digest == hashlib.sha256(b"abc").digest()


@pytest.mark.parametrize("sent", [b"", b"us_", b"us__", b"_", b"us", b"xx_1_abc", b"\xff\xfe", b"us_1", b"us_1_a_b"])
def test_what_is_no_key_is_read_without_an_error(sent: bytes):
    """A client may send anything; it is then compared like any other key, and found unknown."""
    assert len(keys.read(sent).digest) == 32


def test_a_key_does_not_show_its_secret():
    """Where one is printed or logged by mistake, only its public id is seen."""
    made = keys.generate()

    assert made.id in repr(made)
    assert made.secret.decode() not in repr(made)
