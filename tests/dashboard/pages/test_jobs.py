"""What the page of jobs says, as it is computed."""

import pytest

from dashboard.pages.jobs import holder, squares
from understudy.work_records import ShardStrip


@pytest.mark.parametrize(
    ("owner", "said"),
    [
        ("gpu-1:6f1c2a90:4026531836:214:88120", ("gpu-1", "214")),
        ("mac.local:::77:None", ("mac.local", "77")),
        ("", ("nobody", "")),
        (None, ("nobody", "")),
    ],
)
def test_a_holder_is_a_host_and_a_process(owner: str | None, said: tuple[str, str]):
    """As claims write it; whoever wrote something else is shown as that."""
    assert holder(owner) == said


def test_squares_are_told_to_those_who_cannot_see_them():
    """Each state by its number, and a square a shard."""
    drawn = squares(ShardStrip(bucket="b", first=1, states="ddrwf"))
    assert 'aria-label="2 labeled, 1 being labeled, 1 waiting, 1 failed"' in drawn
    assert drawn.count("<i ") == 5
