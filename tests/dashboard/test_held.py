"""Single images that are held for a while."""

from dashboard.held import Held


def test_the_newest_images_are_held_within_a_limit_of_bytes():
    """The oldest make room; their names find nothing."""
    held = Held(max_bytes=10)
    first, second = held.keep(b"12345"), held.keep(b"1234")
    assert (held.find(first), held.find(second)) == (b"12345", b"1234")
    third = held.keep(b"123")
    assert (held.find(first), held.find(second), held.find(third)) == (None, b"1234", b"123")
