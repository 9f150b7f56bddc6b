import io
import os
import signal
import sys

import pytest
from PIL import Image

from understudy.records import Problem
from understudy.testing import picture
from worker.checkers import Checked, Checkers
from worker.decoding import Limits

GOOD = [picture(n % 3, 3, seed=n, size=8) for n in range(6)]

#: Does to its decoder what the image says.
HOSTILE = """
import os, signal, sys
from worker import decoding

def examine(data):
    if data == b"crash": os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"leave": os._exit(0)
    if data == b"spin":
        while True: pass
    if data == b"hang": signal.pause()
    if data == b"eat": x = bytearray(2**31)
    if data == b"environment": return {"code": "seen", "detail": " ".join(sorted(os.environ))}
    if data == b"pid": return {"code": "seen", "detail": str(os.getpid())}
    if data == b"kill": os.kill(os.getppid(), signal.SIGKILL), os._exit(0)
    return decoding.examine(data)

decoding.main(examine, sys.argv[1:])
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Two children that obey their images, with little patience."""
    program = tmp_path_factory.mktemp("hostile") / "program.py"
    program.write_text(HOSTILE)
    checkers = Checkers(2, Limits(cpu_s=0.5, wall_s=2.0, images=40), [sys.executable, "-P", str(program)])
    yield checkers
    checkers.close()


def codes(checkers, images):
    return [
        answer.code if isinstance(answer, Problem) else "ok"
        for _, answer in checkers.check(images, lambda image: image)
    ]


def test_an_image_is_checked(checkers):
    """Its facts and its fingerprint come back, in the order of the images; what is no image says why."""
    images = [GOOD[0], b"no image", picture(0, 3, size=19, image_format="JPEG"), b"", GOOD[0][:60]]
    answers = [answer for _, answer in checkers.check(images, lambda image: image)]
    assert [type(answer) for answer in answers] == [Checked, Problem, Checked, Problem, Problem]
    assert (answers[0].facts.width, answers[0].facts.format, len(answers[0].fingerprint)) == (8, "PNG", 0)
    assert (answers[2].facts.width, answers[2].facts.format, len(answers[2].fingerprint)) == (19, "JPEG", 35)
    assert [answers[at].code for at in (1, 3, 4)] == ["not_an_image", "empty", "truncated"]


def test_many_images_of_any_size_come_back_in_order(checkers):
    """Over all children and batches, and with items that have no image among them."""
    items = [(n, None if n % 7 == 0 else picture(n % 3, 3, seed=n, size=8 + n % 200)) for n in range(300)]
    answers = list(checkers.check(items, lambda item: item[1]))
    assert [item[0] for item, _ in answers] == list(range(300))
    assert all((answer is None) == (n % 7 == 0) for (n, _), answer in answers)
    assert all(answer.facts.width == 8 + n % 200 for (n, _), answer in answers if answer)


@pytest.mark.parametrize(
    ("evil", "code"),
    [
        (b"crash", "decoder_crashed"),
        (b"leave", "decoder_crashed"),
        (b"spin", "decoder_timeout"),
        (b"hang", "decoder_timeout"),
        (b"eat", "decoder_crashed"),
    ],
)
def test_an_image_that_ends_its_decoder_ends_nothing_else(evil, code, hostile):
    """Its answer says so, in the middle of a batch, twice in a row; all others are checked."""
    images = [*GOOD[:3], evil, evil, *GOOD[3:], evil]
    assert codes(hostile, images) == ["ok"] * 3 + [code] * 2 + ["ok"] * 3 + [code]


def test_a_decoder_has_no_secrets(hostile, monkeypatch):
    """Of our environment it sees nothing."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    hostile.close()
    ((_, answer),) = hostile.check([b"environment"], lambda image: image)
    assert set(answer.detail.split()) <= {"PYTHONPATH", "OPENBLAS_NUM_THREADS", "PYTHONUTF8", "LC_CTYPE"}


def test_a_decoder_is_replaced_after_its_share(hostile):
    """What it lost or learned does not last."""
    pids = [answer.detail for _, answer in hostile.check([b"pid"] * 400, lambda image: image)]
    assert len(pids) == 400
    assert 4 <= len(set(pids)) <= 12


def test_a_program_that_dies_is_started_again(hostile):
    """And its images are checked, those that wait behind them too."""
    list(hostile.check([GOOD[0]] * 100, lambda image: image))
    for child in hostile._children:
        os.kill(child._process.pid, signal.SIGKILL)
        child._process.wait()
    assert codes(hostile, GOOD * 30) == ["ok"] * 180


def test_programs_that_die_over_and_over_are_a_fault_of_ours(hostile):
    """Said as such, so that the work is given back; and the children serve the next one."""
    with pytest.raises(RuntimeError, match="died over one batch"):
        codes(hostile, [GOOD[0], b"kill"])
    assert codes(hostile, GOOD) == ["ok"] * 6


def test_a_walk_that_breaks_off_leaves_no_answers_for_the_next(checkers):
    """The answers that nobody took are not given to others."""
    walk = checkers.check([GOOD[0]] * 500, lambda image: image)
    next(walk)
    walk.close()
    assert codes(checkers, [b"no image", GOOD[0]]) == ["not_an_image", "ok"]


def test_a_decoder_takes_an_image_of_forty_megapixels_with_transparency(checkers):
    """The limit of memory is above what the limits on images let in."""
    buffer = io.BytesIO()
    Image.new("RGBA", (8000, 5000), (200, 0, 0, 128)).save(buffer, "PNG", compress_level=1)
    assert codes(checkers, [buffer.getvalue()]) == ["ok"]
