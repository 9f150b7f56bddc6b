"""The file that a health check looks at."""

from collections.abc import Callable
from pathlib import Path

from understudy import heartbeat


def test_the_file_is_touched_while_the_block_runs(tmp_path: Path, until: Callable[..., None]):
    """It is there soon after the beginning."""
    file = tmp_path / "alive"
    with heartbeat.beating(file):
        until(file.exists)


def test_a_file_that_cannot_be_touched_ends_nothing(tmp_path: Path):
    """Nor does it if nobody wants one."""
    heartbeat.beat(tmp_path / "no" / "such" / "folder")
    heartbeat.beat(None)
    with heartbeat.beating(None):
        pass
