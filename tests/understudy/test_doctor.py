"""The doctor: what it sees on a machine that is well, and what it says where something is not."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from sqlalchemy import make_url

from understudy import doctor, settings
from understudy.catalog import Catalog
from understudy.doctor import CHECKS, Check, Finding, Patient, Verdict
from understudy.settings import ServiceSettings, Settings

BY_NAME = {check.name: check for check in CHECKS}
#: Where nothing has to be loaded.
QUICK = [check for check in CHECKS if check.name not in ("onnxruntime", "torch")]


def look(name: str, patient: Patient) -> Finding:
    """One check's finding."""
    (finding,) = doctor.examine(patient, [BY_NAME[name]])
    return finding


@pytest.fixture
def nowhere(tmp_path: Path) -> Settings:
    """Settings of a machine where nothing was ever started."""
    return settings.read(Settings, data=tmp_path / "data", catalog_url="", store_url="", broker_url="")


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port where somebody takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


# -- each in its time -----------------------------------------------------------------------------


def test_a_check_that_hangs_is_a_finding_and_the_others_do_not_wait(nowhere: Settings):
    """Side by side, in their order, each within its own time; one that breaks says how, and what to do."""
    never = threading.Event()

    def hang(patient: Patient) -> doctor.Said:
        never.wait(60)
        return Verdict.OK, "too late"

    def fall(patient: Patient) -> doctor.Said:
        raise OSError("the disk is gone\nand more")

    checks = [
        Check("hangs", hang, "pull the plug", timeout_s=0.2),
        Check("falls", fall, "look at it"),
        Check("well", lambda patient: (Verdict.OK, "fine"), ""),
    ]
    found = list(doctor.examine(Patient(nowhere), checks))
    never.set()

    assert [(f.name, f.verdict, f.seen, f.advice) for f in found] == [
        ("hangs", Verdict.FAILED, "no answer within 0.2 s", "pull the plug"),
        ("falls", Verdict.FAILED, "the disk is gone", "look at it"),
        ("well", Verdict.OK, "fine", None),
    ]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_is_bounded_and_says_what_to_do(check: Check):
    """Within two minutes all have ended; where looking goes wrong there is an advice."""
    assert 0 < check.timeout_s <= 120
    assert check.advice
    assert check.look.__doc__


# -- a machine where nothing runs, and one where all does -----------------------------------------


def test_where_nothing_runs_nothing_is_wrong_and_nothing_is_made(nowhere: Settings):
    """The first start will make it all."""
    found = {f.name: f for f in doctor.examine(Patient(nowhere, url="http://127.0.0.1:1"), QUICK)}

    asked = ("data", "database", "clock", "redis", "store", "service", "environment", "libraries", "python")
    assert {name: found[name].verdict for name in asked} == dict.fromkeys(asked, Verdict.OK)
    assert "`understudy up` starts the bundled 6." in found["redis"].seen
    assert not nowhere.data.exists()


def test_a_socket_that_a_killed_redis_left_is_no_redis(nowhere: Settings):
    """The next start makes it anew."""
    path = settings.redis_socket(nowhere.data)
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    assert "`understudy up` starts the bundled 6." in look("redis", Patient.of(nowhere)).seen


def test_where_all_runs_all_is_seen(service_settings: ServiceSettings, url: str, serving: Callable[..., str]):
    """The catalog, Redis, the store and the service, each by asking it; the store is as it was."""
    version = serving()
    patient = Patient.of(service_settings, url)
    names = ("database", "redis", "store", "service", "clock", "data")
    found = {f.name: f for f in doctor.examine(patient, [BY_NAME[name] for name in names])}

    seen = {name: finding.seen for name, finding in found.items()}
    assert not [f for f in found.values() if f.verdict == Verdict.FAILED], seen
    assert "journal wal" in seen["database"]
    assert "noeviction" in seen["redis"]
    assert f"serves {version} on cpu" in seen["service"]
    assert "written, read and deleted" in seen["store"]
    assert not list((service_settings.data / "store").rglob("doctor/*"))


def test_a_real_session_is_opened_and_torch_is_asked_elsewhere(nowhere: Settings):
    """Neither is imported here; what a session really runs on is told."""
    patient = Patient(nowhere)
    session, torch = doctor.examine(patient, [BY_NAME["onnxruntime"], BY_NAME["torch"]])

    assert session.verdict == torch.verdict == Verdict.OK
    assert "a real session runs on" in session.seen
    assert "computes on" in torch.seen


# -- what is not well -----------------------------------------------------------------------------


def test_a_service_that_was_named_ought_to_answer(nowhere: Settings, deaf: int):
    """Also one that takes the connection and is silent: that is told in time."""
    missing = look("service", Patient.of(nowhere, "http://127.0.0.1:1"))

    assert missing.verdict == Verdict.FAILED
    assert "no answer from http://127.0.0.1:1" in missing.seen


def test_a_service_without_a_model_or_a_key_says_what_to_do(
    service_settings: ServiceSettings, served: Callable[..., Any], url: str
):
    """A first teacher is to be trained; a key is to be named."""
    young = look("service", Patient.of(service_settings, url))
    assert (young.verdict, young.seen) == (Verdict.WARNING, f"{url} serves nothing")
    assert "understudy init" in str(young.advice)

    with served(service_settings.model_copy(update={"keys": "required"})) as guarded:
        shut = look("service", Patient.of(service_settings, guarded))
        assert shut.seen.endswith("serves nothing to whoever has an API key")
        wrong = look("service", Patient.of(service_settings, guarded, key="us_0123456789ab_" + "0" * 64))
        assert (wrong.verdict, "--key" in str(wrong.advice)) == (Verdict.FAILED, True)
        assert "0" * 64 not in wrong.model_dump_json()


def test_servers_that_are_away_are_told_without_their_passwords(nowhere: Settings):
    """Where nobody listens: the database, its clock, and Redis."""
    away = nowhere.model_copy(
        update={
            "catalog_url": "postgresql+psycopg://me:geheim@127.0.0.1:1/understudy",
            "broker_url": "redis://:geheim@127.0.0.1:1/0",
        }
    )
    for name in ("database", "clock", "redis"):
        found = look(name, Patient(away))
        assert found.verdict == Verdict.FAILED
        assert "UNDERSTUDY_" in str(found.advice)
        assert "geheim" not in found.model_dump_json()


def test_a_catalog_that_nobody_has_migrated_waits_for_that(empty_catalog_url: str, nowhere: Settings):
    """Looking does not do it."""
    with closing(Catalog(empty_catalog_url)) as catalog:
        catalog.look()  # SQLite makes the file
    unmade = nowhere.model_copy(update={"catalog_url": empty_catalog_url})
    for _ in range(2):
        found = look("database", Patient(unmade))
        assert (found.verdict, "schema not made" in found.seen) == (Verdict.WARNING, True)


def test_a_catalog_of_a_newer_program_is_refused(catalog_url: str, nowhere: Settings):
    """Its schema is not known here; the one of this program is."""
    patient = Patient(nowhere.model_copy(update={"catalog_url": catalog_url}))
    assert look("database", patient).verdict != Verdict.FAILED
    assert look("clock", patient).verdict == Verdict.OK
    with closing(Catalog(catalog_url)) as catalog, catalog.write() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")

    newer = look("database", patient)

    assert (newer.verdict, "upgrade" in str(newer.advice)) == (Verdict.FAILED, True)


def test_a_catalog_on_a_network_disk_is_refused(nowhere: Settings, sqlite_url: str, tmp_path: Path):
    """By the longest mount that the file lies under."""
    file = Path(str(make_url(sqlite_url).database))
    (tmp_path / "proc" / "self").mkdir(parents=True)
    mounts = f"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n36 21 0:30 / {tmp_path} rw shared:1 - nfs4 server:/export rw\n"
    (tmp_path / "proc" / "self" / "mountinfo").write_text(mounts)

    assert doctor.disk_of(file, tmp_path) == "nfs4"
    assert doctor.disk_of(Path("/etc"), tmp_path) == "ext4"
    found = look("database", Patient(nowhere.model_copy(update={"catalog_url": sqlite_url}), root=tmp_path))
    assert found.verdict == Verdict.FAILED
    assert "on nfs4" in found.seen


@pytest.mark.parametrize(
    ("version", "is_good"),
    [((3, 40, 1), False), ((3, 51, 2), False), ((3, 51, 3), True), ((3, 50, 7), True), ((3, 44, 5), False)],
)
def test_a_sqlite_with_the_wal_reset_bug_is_known(version: tuple[int, ...], is_good: bool):
    """By its version, and those to which the mend was carried back."""
    assert doctor.is_good_sqlite(version) is is_good


@pytest.mark.parametrize(
    ("info", "verdict", "word"),
    [
        ({}, Verdict.OK, ""),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 10**9}, Verdict.FAILED, "noeviction"),
        ({"maxmemory_policy": "allkeys-lru"}, Verdict.WARNING, "noeviction"),
        ({"aof_enabled": 0}, Verdict.WARNING, "appendonly"),
        ({"aof_last_write_status": "err"}, Verdict.FAILED, "disk"),
        ({"maxmemory": 100, "used_memory": 95}, Verdict.FAILED, "memory"),
    ],
)
def test_a_redis_that_would_lose_messages_is_told(info: dict[str, Any], verdict: Verdict, word: str):
    """With the setting to change."""
    well = {"redis_version": "7.4.1", "maxmemory_policy": "noeviction", "aof_enabled": 1, "used_memory": 50}

    said = doctor.judge_redis(well | info)

    assert said[0] == verdict
    assert word in str(said[2] if len(said) > 2 else "")


def test_libraries_that_do_not_fit_are_told_with_the_reason():
    """Known-bad versions, missing ones, and two that lie over each other; who only serves needs no torch."""
    needed = [Requirement(line) for line in ("celery[redis]==5.6.3", "torch>=2.11", 'mlflow>=3; extra == "mlflow"')]
    good = {"celery": "5.6.3", "torch": "2.15.0+cu132", "onnxruntime": "1.31.1"}

    assert doctor.judge_libraries(needed, good)[0] == Verdict.OK
    assert doctor.judge_libraries(needed, good | {"torch": None})[0] == Verdict.OK
    bad = doctor.judge_libraries(needed, good | {"celery": "5.7.0"})
    assert bad[:2] == (
        Verdict.FAILED,
        "celery 5.7.0 is not ==5.6.3: 5.7.0 ends its worker when Redis restarts under a task",
    )
    assert "celery is not installed" in doctor.judge_libraries(needed, {"torch": "2.15.0"})[1]
    assert "lie over each other" in doctor.judge_libraries(needed, good | {"onnxruntime-gpu": "1.31.1"})[1]


def test_a_container_with_too_little_is_told(nowhere: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Half a core; more threads than cores; settings that no program would accept."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/\n")
    (tmp_path / "sys" / "fs" / "cgroup").mkdir(parents=True)
    (tmp_path / "sys" / "fs" / "cgroup" / "cpu.max").write_text("50000 100000\n")
    half = look("cpu", Patient(nowhere, root=tmp_path))
    assert (half.verdict, "a quota of 0.5" in half.seen) == (Verdict.WARNING, True)

    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert "OMP_NUM_THREADS=4096" in look("cpu", Patient(nowhere)).seen
    monkeypatch.setenv("UNDERSTUDY_MAX_BATCH", "none")
    wrong = look("environment", Patient(nowhere))
    assert (wrong.verdict, "UNDERSTUDY_MAX_BATCH='none'" in wrong.seen) == (Verdict.FAILED, True)


def test_a_data_folder_that_is_no_folder_is_told(nowhere: Settings):
    """What lies in the way is named."""
    nowhere.data.write_text("in the way")

    found = look("data", Patient(nowhere))

    assert (found.verdict, str(nowhere.data) in found.seen) == (Verdict.FAILED, True)
