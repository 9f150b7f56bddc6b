"""Labeling while everything dies around it: each test ends with the ledger, by counting."""

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import select, update

from understudy import ledger, messages, registry, settings
from understudy.catalog import Catalog, jobs, shards, versions
from understudy.catalog.tables import LabelSetRow
from understudy.records import JobKind, JobState, Upload
from understudy.settings import WorkerSettings
from understudy.store import Store, upload_key
from understudy.testing import picture, tiny_artifact, zipped
from worker import reconcile
from worker.label import label
from worker.resources import Resources
from worker.unpack import unpack

ROOT = Path(__file__).parents[2]
CLASSES = ["red", "green", "blue"]
#: Nothing here takes longer, whatever the machine is busy with.
PATIENCE_S = 100.0
#: Short, so that a lost holder is followed soon.
LEASE_S = 2.0


class World:
    """A catalog, a store and a queue, and what their users do to them."""

    def __init__(self, data: Path, broker_url: str, catalog_url: str = "") -> None:
        chosen = {"data": data, "broker_url": broker_url, "catalog_url": catalog_url, "provider": "cpu"}
        short = {"lease_s": LEASE_S, "reconcile_s": 0.3, "shard_images": 4, "label_batch": 2}
        self.settings = settings.read(WorkerSettings, **chosen, **short)
        self.catalog = Catalog(self.settings.catalog_url)
        self.catalog.migrate()
        self.store = Store(self.settings.store_url)
        self.app = messages.celery_app(broker_url)
        self.num_sent = 0

    def resources(self, store: Store | None = None) -> Resources:
        ring = lambda task, id: messages.ring(self.app, task, id)  # noqa: E731
        return Resources(self.catalog, store or self.store, self.settings, ring)

    def promote(self, **options) -> str:
        """A new champion, slow by ``work``: a quarter of a millisecond each."""
        artifact, card = tiny_artifact(CLASSES, **options)
        registry.publish(self.store, self.catalog, card, artifact, b"")
        before = versions.champion(self.catalog)
        with self.catalog.write() as session:
            instead_of = before.version if before else None
            versions.promote(session, card.version, instead_of=instead_of, reason="test", actor="test")
        return card.version

    def send(self, num_images: int, bucket: str = "b") -> None:
        """Upload and unpack so many new images, four a shard."""
        numbers = range(self.num_sent, self.num_sent + num_images)
        archive = zipped({f"{n}.png": picture(n % 3, 3, seed=n, size=16) for n in numbers}).getvalue()
        self.num_sent += num_images
        job = jobs.open_upload(self.catalog, JobKind.INGEST, bucket=bucket, params={})
        self.store.put(upload_key(job.id, 0), archive)
        upload = Upload(key=upload_key(job.id, 0), name="a.zip", num_bytes=len(archive), split="unlabeled")
        jobs.received(self.catalog, job.id, [upload])
        unpack(self.resources(), job.id)
        assert jobs.get(self.catalog, job.id).state is JobState.SUCCEEDED

    def holders(self) -> list[int]:
        """The processes that hold label sets now."""
        with self.catalog.read() as session:
            held = select(LabelSetRow.owner).where(LabelSetRow.state == JobState.RUNNING)
            return sorted({int(owner.split(":")[-2]) for owner in session.scalars(held) if owner})

    def num_done(self, version: str) -> int:
        return shards.label_progress(self.catalog, version).num_done

    def lapse(self) -> None:
        """Let every lease and every pause be over."""
        with self.catalog.write() as session:
            over = update(LabelSetRow).where(LabelSetRow.lease_until.is_not(None))
            session.execute(over.values(lease_until=1.0))

    def audit(self, *labeled_by: str) -> None:
        """The invariants: every accepted image labeled once by each of these, and nothing else in the store."""
        for version in labeled_by:
            books = ledger.read(self.catalog, self.store, version)
            assert books.faults == ()
            assert books.num_accepted == books.num_labeled == self.num_sent
        published = [task.key for version in labeled_by for task in shards.published_labels(self.catalog, version)]
        assert set(published) <= set(self.store.list("labels/"))

    @contextmanager
    def program(self, *arguments: str, path: str = ""):
        """``python -m worker``, in a process group of its own."""
        environment = os.environ | self.settings.environment() | {"PYTHONPATH": f"{path}:{ROOT}"}
        command = [sys.executable, "-m", "worker", *arguments]
        with subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True) as child:
            try:
                yield child
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)


@pytest.fixture
def world(tmp_path, redis_url):
    made = World(tmp_path, redis_url)
    yield made
    made.app.close()
    made.catalog.close()


def until(is_so) -> None:
    """Other processes: there is nothing to wait on but what they write."""
    deadline, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, "it never came to that"
        pause.wait(0.02)


def in_threads(*calls) -> None:
    """All at once; whatever one raises is raised here."""
    errors: list[BaseException] = []

    def run(call) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert errors == []


def test_kills_in_one_bucket_lose_nothing_and_repeat_nothing(world, pytestconfig):
    """``kill -9`` of whoever holds a label set, at random moments; the next one is at work within seconds. Twenty with ``--thorough``."""
    version = world.promote(work=200)
    world.send(120)
    num_kills = 20 if pytestconfig.getoption("--thorough") else 5
    random_moment, killed = random.Random(4), set()

    def somebody_works() -> bool:
        if world.num_done(version) == world.num_sent // 4:  # a fast machine is done before it was killed often enough
            world.send(8)
        return bool(set(world.holders()) - killed)

    with world.program("reconcile"), world.program():
        while len(killed) < num_kills:
            until(somebody_works)
            threading.Event().wait(random_moment.uniform(0.0, 0.2))
            for pid in set(world.holders()) - killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        until(lambda: world.num_done(version) == world.num_sent // 4)
    world.audit(version)


def test_a_worker_that_slept_past_its_lease_changes_nothing_when_it_wakes(world):
    """SIGSTOP, until another has done its work; then SIGCONT."""
    version = world.promote(work=400)
    world.send(8)
    with world.program() as worker:
        assert messages.ring(world.app, messages.LABEL, 1)
        until(world.holders)
        os.killpg(worker.pid, signal.SIGSTOP)

        def others_did_it() -> bool:
            label(world.resources(), 1)
            return world.num_done(version) == 2

        until(others_did_it)
        before = world.store.list("labels/")
        os.killpg(worker.pid, signal.SIGCONT)
        assert messages.ring(world.app, messages.LABEL, 1)
        until(lambda: messages.num_waiting(world.app, messages.LABEL) == 0)  # it is done with what it held
    world.audit(version)
    assert set(before) >= {task.key for task in shards.published_labels(world.catalog, version)}


def test_one_message_delivered_five_times_and_two_reconcilers_at_once(world):
    """Whoever is first does the work; the others find nothing, and ask for nothing twice."""
    world.send(40)
    version = world.promote(work=20)  # later than the shards, so that the reconcilers ask for their label sets
    rounds = [lambda: reconcile.reconcile(world.catalog, world.store, world.app, world.settings)] * 2
    in_threads(*rounds)
    in_threads(*[lambda: label(world.resources(), 1)] * 5, *rounds)
    world.audit(version)
    assert len(world.store.list("labels/")) == 10


def test_a_champion_change_in_the_middle_of_a_bucket_mixes_no_teachers(world):
    """What was asked of the former is finished by it; the new one labels everything, what is new first."""
    former = world.promote(work=40)
    world.send(40)
    labeling = threading.Thread(target=lambda: label(world.resources(), 1))
    labeling.start()
    until(lambda: world.num_done(former) >= 2)
    newer = world.promote(generation=1, sharpness=9.0)
    world.send(8)
    reconcile.reconcile(world.catalog, world.store, world.app, world.settings)
    labeling.join(PATIENCE_S)
    label(world.resources(), 1)
    world.audit(newer)
    assert world.num_done(former) == 10  # not the two shards that came later


def test_the_ledger_sees_what_is_lost_and_what_is_there_twice(world):
    """A control: what never finds a fault proves nothing."""
    version = world.promote()
    world.send(8)
    label(world.resources(), 1)
    world.audit(version)
    one, other = shards.published_labels(world.catalog, version)

    def faults() -> str:
        return " ".join(ledger.read(world.catalog, world.store, version).faults)

    right = world.store.get(one.key)
    world.store.replace(one.key, world.store.get(other.key))
    assert "is not of the images" in faults()
    assert "is labeled 2 times" in faults()
    assert "4 accepted images have no label" in faults()
    world.store.replace(one.key, right)
    assert faults() == ""
    with world.catalog.write() as session:
        session.execute(update(LabelSetRow).where(LabelSetRow.id == one.id).values(state=JobState.FAILED))
    assert "has 0 label sets" in faults()


#: A program reads this before itself: a decoder that dies of one image.
DEFECT = """
import hashlib, os
from understudy import images
load = images.load
def defective(data, preprocessing):
    if hashlib.sha256(data).hexdigest() == "{sha256}":
        os.abort()
    return load(data, preprocessing)
images.load = defective
"""


@pytest.mark.thorough
def test_an_image_that_kills_every_worker_costs_itself_and_nothing_else(world, tmp_path):
    """Two workers die of it; the third finds it and leaves it out, with the reason; all others are labeled."""
    version = world.promote()
    world.send(16)
    killer = picture(5 % 3, 3, seed=5, size=16)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(DEFECT.format(sha256=hashlib.sha256(killer).hexdigest()))
    with world.program(path=str(broken)):
        until(lambda: world.num_done(version) == 4)
    books = ledger.read(world.catalog, world.store, version)
    assert books.faults == ()
    assert (books.num_accepted, books.num_labeled, books.num_left_out) == (16, 15, 1)
    with world.catalog.read() as session:
        spent = [row.attempt - row.forgiven for row in session.scalars(select(LabelSetRow).order_by(LabelSetRow.id))]
    assert max(spent) == shards.CAREFUL_FROM


class TroubledStore(Store):
    """A store that takes its time, and refuses its first writes as a full disk does."""

    def __init__(self, url: str, num_refusals: int) -> None:
        super().__init__(url)
        self.left = num_refusals

    def put(self, key, data):
        threading.Event().wait(0.02)
        if self.left > 0:
            self.left -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().put(key, data)


def test_a_store_that_is_slow_and_full_costs_time_and_no_attempts(world):
    """However often it refuses: the work is not to blame, and is done when there is room."""
    version = world.promote()
    world.send(12)
    troubled = TroubledStore(world.settings.store_url, num_refusals=20)
    while world.num_done(version) < 3:
        label(world.resources(troubled), 1)
        world.lapse()
    with world.catalog.read() as session:
        assert all(row.attempt - row.forgiven == 1 for row in session.scalars(select(LabelSetRow)))
    world.audit(version)


def test_a_database_that_restarts_costs_time_and_nothing_else(tmp_path, redis_url, postgres_url, postgres_database):
    """All its connections are cut, again and again, while a bucket is labeled."""
    world = World(tmp_path, redis_url, postgres_database)
    version = world.promote(work=20)
    world.send(60)
    over = threading.Event()

    def cut() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            for _ in range(6):
                over.wait(0.15)
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname LIKE 'test%' AND pid <> pg_backend_pid()"
                )

    cutting = threading.Thread(target=cut)
    cutting.start()
    while cutting.is_alive() or world.num_done(version) < 15:
        with suppress(Exception):  # a worker would log it, and be rung again
            label(world.resources(), 1)
            world.lapse()
    cutting.join()
    world.audit(version)
    world.app.close()
    world.catalog.close()


def test_no_programs_clock_decides_over_a_lease(world, monkeypatch):
    """A machine whose clock is an hour ahead steals nothing, and one an hour behind holds nothing for ever."""
    world.promote()
    world.send(4)
    right = time.time
    assert shards.claim_labels(world.catalog, lease_s=60.0)
    for wrong in (3600.0, -3600.0):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: right() + wrong)
        assert shards.claim_labels(world.catalog, lease_s=60.0) is None
    world.lapse()
    assert shards.claim_labels(world.catalog, lease_s=60.0)
