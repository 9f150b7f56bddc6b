"""Cores: a container's CPU quota counts, wherever its control group is mounted."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from understudy import cores, engine


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2 = "0::/\n"
V1 = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        pytest.param({}, None, id="no control groups"),
        pytest.param({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "max 100000\n"}, None, id="v2 without a quota"),
        pytest.param({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0, id="v2"),
        pytest.param({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5, id="v2, half a core"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/pod/one\n",
                "sys/fs/cgroup/pod/one/cpu.max": "max 100000\n",
                "sys/fs/cgroup/pod/cpu.max": "300000 100000\n",
            },
            3.0,
            id="v2, the group above has it",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../elsewhere\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"},
            1.0,
            id="v2, seen from another namespace",
        ),
        pytest.param(
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            1.5,
            id="v1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4.0,
            id="v1, in a container that sees its own group as the mount",
        ),
        pytest.param(
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
            id="v1 without a quota",
        ),
        pytest.param({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "nonsense"}, None, id="nonsense"),
    ],
)
def test_the_quota_is_read_where_it_is(tmp_path, files, quota):
    """Version 1 and 2 of control groups, of the group itself or of one above it."""
    assert cores.quota_cores(write(tmp_path, files)) == quota


@pytest.mark.parametrize(("quota", "expected"), [("50000", 1), ("100000", 1), ("6400000", None)])
def test_a_quota_only_takes_cores_away(tmp_path, quota, expected):
    """Half a core is one thread; a quota above what the process may run on changes nothing."""
    unlimited = engine.available_cores(tmp_path)

    write(tmp_path, {"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": f"{quota} 100000"})

    assert engine.available_cores(tmp_path) == min(expected or unlimited, unlimited)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux lets a thread choose its core")
def test_a_thread_that_computes_settles_on_its_core_alone():
    """The others stay where they may be; and it lets those go first that only hand work over."""
    everywhere = os.sched_getaffinity(0)
    core = max(everywhere)

    def settled() -> tuple[set[int], int]:
        cores.settle(core)
        return os.sched_getaffinity(0), os.sched_getscheduler(0)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(settled).result() == ({core}, os.SCHED_BATCH)
    assert os.sched_getaffinity(0) == everywhere


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux lets a thread choose its core")
def test_only_as_many_threads_as_cores_get_one_each():
    """One more or one fewer, and the system had better find them a place."""
    allowed = sorted(os.sched_getaffinity(0))
    assert cores.one_each(len(allowed)) == allowed
    assert cores.one_each(len(allowed) + 1) is None
    assert cores.one_each(len(allowed) - 1) is None
