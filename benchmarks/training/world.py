"""A world to train in: a real catalog and store in a folder, with sealed shards, a worker that labels, and a trainer.

Everything that makes or judges a model here is the product's own code; only the promotion of a student
that the gate refused is not: the benchmark's chain goes on as the paper's does.
"""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.training.sets import ImageSet, Sample
from trainer import evaluate, generation
from trainer.progress import Progress
from trainer.work import Workplace
from understudy import images, registry, settings
from understudy.catalog import Catalog, claims, generations, jobs, shards, versions
from understudy.catalog.tables import JobRow
from understudy.records import Evaluation, GenerationRequest, JobKind
from understudy.settings import WorkerSettings
from understudy.shards import ShardWriter
from understudy.store import Store
from worker.label import label
from worker.resources import Resources

#: Nobody else is here to take a lease over.
LEASE_S = 24 * 3600.0
SHARD_IMAGES = 1000
#: The file that says where the tests of a world are.
TESTS = "tests.json"


@dataclass(frozen=True)
class Taught:
    """What one generation came to."""

    version: str
    tests: dict[str, Evaluation]  #: by the test's name, through the exported artifact
    seconds: float  #: of the generation, from plan to verdict
    verdict: str  #: the gate's, with the test as its holdout
    num_kept: int  #: different pseudo-labeled images that were trained on


class World:
    """A catalog and a store in a folder."""

    def __init__(self, folder: Path) -> None:
        self._settings = settings.read(WorkerSettings, data=folder, provider="cpu")
        self._folder = folder
        self.catalog = Catalog(self._settings.catalog_url)
        self.catalog.migrate()
        self.store = Store(self._settings.store_url)

    def fill(self, images_of: ImageSet, *, with_unlabeled: bool) -> None:
        """Seal a set. The first test is the holdout too, so that the gate can say what it would; nothing is chosen by it."""
        self._seal(images_of.labeled, "labeled")
        first, *others = images_of.tests
        tests = {first: self._seal(images_of.tests[first], "holdout")}
        tests |= {name: self._seal(images_of.tests[name], "holdout", is_known=False) for name in others}
        (self._folder / TESTS).write_text(json.dumps(tests))
        if with_unlabeled:
            self._seal(images_of.unlabeled, "unlabeled")

    def _seal(self, samples: Sequence[Sample], split: str, *, is_known: bool = True) -> list[str]:
        """The keys of the shards of some images. What is not known to the catalog is only in the store."""
        starts = range(0, len(samples), SHARD_IMAGES)
        return [self._seal_one(samples[at : at + SHARD_IMAGES], split, is_known) for at in starts]

    def _seal_one(self, samples: Sequence[Sample], split: str, is_known: bool) -> str:
        bucket = "benchmark" if split == "unlabeled" else None
        path = self._folder / "shard.tar"
        writer = ShardWriter(path, split=split, bucket=bucket)
        for sample in samples:
            facts = images.inspect(sample.data)
            writer.add(sample.data, sha256=sample.sha256, name="x", facts=facts, class_name=sample.class_name)
        manifest = writer.seal(self.store)
        path.unlink(missing_ok=True)
        if is_known:
            kind = JobKind.INGEST if split == "unlabeled" else JobKind.LABELED
            job = jobs.open_upload(self.catalog, kind, bucket=bucket, params={})
            jobs.received(self.catalog, job.id, [])
            claim = claims.claim(self.catalog, JobRow, job.id, lease_s=LEASE_S)
            assert claim is not None
            shards.seal(self.catalog, claim, manifest, list(range(len(samples))))
            with self.catalog.write() as session:
                jobs.succeed(session, claim, {})
        return manifest.key

    def teach(self, request: GenerationRequest) -> Taught:
        """One generation, from its request to its verdict; then its student is the champion, whatever that was."""
        before = versions.champion(self.catalog)
        if before is not None:
            self._label(before.version)
        began = time.monotonic()
        turn = generations.open_generation(self.catalog, request)
        claim = claims.claim(self.catalog, JobRow, turn.job.id, lease_s=LEASE_S)
        assert claim is not None
        place = Workplace(self.catalog, self.store, "cpu", "cpu", 1.0, ring=lambda task: False)
        report = generation.run(place, claim, Progress(self.catalog, claim, threading.Event()), turn)
        seconds = time.monotonic() - began
        version = generations.get(self.catalog, turn.number).version
        assert version is not None
        if not report.is_proved:
            self._promote(version, None if before is None else before.version)
        return Taught(
            version=version,
            tests=self._tested(version),
            seconds=seconds,
            verdict=report.verdict,
            num_kept=versions.get(self.catalog, version).card.data.get("num_kept", 0),
        )

    def _label(self, teacher: str) -> None:
        """What the workers do: the champion, un-noised, labels every shard."""
        shards.want_labels(self.catalog)
        resources = Resources(self.catalog, self.store, self._settings, lambda task, work_id: None)
        try:
            while shards.label_progress(self.catalog, teacher).num_done < len(
                shards.of_split(self.catalog, "unlabeled")
            ):
                label(resources, 0)  # a turn: it ends after two minutes
        finally:
            resources.close()

    def _promote(self, version: str, champion: str | None) -> None:
        with self.catalog.write() as session:
            reason = "the benchmark goes on with every student, as the paper does"
            versions.promote(session, version, instead_of=champion, reason=reason, actor="benchmark")

    def _tested(self, version: str) -> dict[str, Evaluation]:
        """A version on every test, through its artifact; that of the holdout is on its card already."""
        card = versions.get(self.catalog, version).card
        first, *others = (tests := json.loads((self._folder / TESTS).read_text()))
        if not others:
            return {first: card.evaluation}
        engine = registry.load(self.store, self.catalog, version, provider="cpu")
        measured = {
            name: evaluate.measure(self.store, engine, tests[name], lambda done, total: None).evaluation
            for name in others
        }
        return {first: card.evaluation} | measured

    def close(self) -> None:
        self.catalog.close()


@contextmanager
def opened(folder: Path) -> Iterator[World]:
    """The world in a folder, new or as it was left."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World(folder)
    try:
        yield world
    finally:
        world.close()
