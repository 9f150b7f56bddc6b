"""A small world for the trainer: scikit-learn's digits sealed into a real catalog and store, and a worker's labeling."""

import hashlib
import io
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from trainer import export, generation
from trainer.export import Served
from trainer.progress import Progress
from trainer.work import Workplace
from understudy import images, labels, registry
from understudy.catalog import Catalog, claims, generations, jobs, shards
from understudy.catalog.claims import Claim
from understudy.catalog.tables import JobRow, LabelSetRow
from understudy.engine import INPUT, OUTPUT, predict_all
from understudy.records import Generation, GenerationRequest, JobKind, ShardManifest
from understudy.shards import ShardWriter, read_images, read_manifest
from understudy.store import Store, labels_key

#: No test outlives it.
LEASE_S = 600.0

#: The ``tiny`` recipe in two seconds: enough to learn the digits a little, and to pass every step.
QUICK: dict[str, Any] = {
    "teacher_steps": 40,
    "student_steps": 30,
    "warmup_steps": 5,
    "checkpoint_every": 10,
    "labeled_batch": 16,
    "unlabeled_ratio": 1,
    "ema_decay": 0.9,
    "variants": [],
}


@dataclass(frozen=True)
class Digit:
    """One image of a set, encoded."""

    data: bytes
    class_name: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass
class World:
    """A catalog and a store with a labeled set, a holdout and a bucket; the worker's part is done by hand."""

    catalog: Catalog
    store: Store
    folder: Path
    num_shards: int = 0
    rung: list[int] = field(default_factory=list)  #: label sets that the trainer rang for

    @property
    def quick(self) -> dict[str, Any]:
        """Overrides that make a run short."""
        return QUICK

    @property
    def place(self) -> Workplace:
        """This world as a trainer is given it."""
        return Workplace(self.catalog, self.store, "cpu", "cpu", 0.01, ring=self.ring)

    def ring(self, task_id: int) -> bool:
        """As if a worker had heard."""
        self.rung.append(task_id)
        return True

    def seal(self, digits: Sequence[Digit], split: str) -> ShardManifest:
        """Seal a shard as an ingest job does."""
        self.num_shards += 1
        bucket = "digits" if split == "unlabeled" else None
        kind = JobKind.INGEST if split == "unlabeled" else JobKind.LABELED
        job = jobs.open_upload(self.catalog, kind, bucket=bucket, params={})
        jobs.received(self.catalog, job.id, [])
        claim = claims.claim(self.catalog, JobRow, job.id, lease_s=LEASE_S)
        assert claim is not None
        writer = ShardWriter(self.folder / f"{self.num_shards}.tar", split=split, bucket=bucket)
        for digit in digits:
            name = None if split == "unlabeled" else digit.class_name
            writer.add(digit.data, sha256=digit.sha256, name="x.png", facts=images.inspect(digit.data), class_name=name)
        manifest = writer.seal(self.store)
        shards.seal(self.catalog, claim, manifest, list(range(len(digits))))
        with self.catalog.write() as session:
            jobs.succeed(session, claim, {})
        return manifest

    def open(self, **request: Any) -> tuple[Generation, Claim]:
        """Open the next generation and claim it."""
        generation = generations.open_generation(self.catalog, GenerationRequest(**request))
        return generation, self.claim(generation)

    def claim(self, generation: Generation) -> Claim:
        """Claim a generation that waits."""
        claim = claims.claim(self.catalog, JobRow, generation.job.id, lease_s=LEASE_S, max_attempts=50)
        assert claim is not None
        return claim

    def label(self) -> None:
        """Make every label set that is wanted of the champion, as the workers do."""
        shards.want_labels(self.catalog)
        engine = registry.load(self.store, self.catalog, registry.champion(self.catalog), provider="cpu")
        for task_id in claims.overdue(self.catalog, LabelSetRow, limit=1000):
            claim = claims.claim(self.catalog, LabelSetRow, task_id, lease_s=LEASE_S)
            assert claim is not None
            task = shards.label_task(self.catalog, task_id)
            manifest = read_manifest(self.store, task.shard.key)
            inputs = (images.load(data, engine.card.preprocessing) for _, data in read_images(self.store, manifest))
            probabilities = np.stack(list(predict_all(engine, inputs, batch=64)))
            rows = labels.to_parquet([m.sha256 for m in manifest.members], probabilities, {"teacher": task.version})
            key = labels_key(task.version, task.shard.key, claim.attempt)
            self.store.put(key, rows)
            sha256 = hashlib.sha256(rows).hexdigest()
            shards.publish_labels(self.catalog, claim, key=key, sha256=sha256, num_rows=len(manifest.members))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Torch's threads stall each other on busy cores (see ``trainer/program.py``), and results depend on their number.

    Before each test: a command that a test runs in this process may have chosen another number.
    """
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> list[Digit]:
    """scikit-learn's 1,797 digits as PNG files of 8 × 8 pixels, each file different from the others."""
    found = load_digits()
    return [
        Digit(_png(np.round(pixels * (255 / 16)).astype(np.uint8), i), str(target))
        for i, (pixels, target) in enumerate(zip(found.images, found.target, strict=True))
    ]


def _png(pixels: Any, number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def quick_to_onnx() -> Callable[[Served, int], bytes]:
    """The second exporter."""
    return _quick_to_onnx


def _quick_to_onnx(model: Served, size: int) -> bytes:
    """As :func:`trainer.export.to_onnx`, by torch's former exporter, which takes 0.2 s instead of 4 for a tiny student.

    ``test_export.py`` holds both to the same; a generation proves each artifact against torch besides.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
            file,
            dynamo=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )
    return file.getvalue()


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generations of this test export quickly. The first one of all is exported as everywhere."""
    monkeypatch.setattr(export, "to_onnx", _quick_to_onnx)


@pytest.fixture
def make_world(tmp_path: Path, digits: list[Digit], quick_export: None) -> Iterator[Callable[..., World]]:
    """Build a world in an own folder: so many labeled images of each class, so many others."""
    made: list[World] = []

    def make(name: str = "world", *, per_class: int = 6, num_unlabeled: int = 100, num_holdout: int = 120) -> World:
        (tmp_path / name).mkdir()
        world = open_world(tmp_path / name)
        made.append(world)
        fill(world, digits, per_class=per_class, num_unlabeled=num_unlabeled, num_holdout=num_holdout)
        return world

    yield make
    for world in made:
        world.catalog.close()


@pytest.fixture(scope="session")
def first_generation(tmp_path_factory: pytest.TempPathFactory, digits: list[Digit]) -> Path:
    """The folder of a world whose first teacher has been promoted, for tests to copy."""
    folder = tmp_path_factory.mktemp("first")
    world = open_world(folder)
    fill(world, digits, per_class=6, num_unlabeled=100, num_holdout=120)
    turn, claim = world.open(recipe="tiny", overrides=QUICK)
    generation.run(world.place, claim, Progress(world.catalog, claim, threading.Event()), turn)
    world.catalog.close()
    return folder


@pytest.fixture
def make_taught_world(tmp_path: Path, first_generation: Path, quick_export: None) -> Iterator[Callable[..., World]]:
    """Copy the world whose first teacher has been promoted."""
    made: list[World] = []

    def make(name: str = "taught") -> World:
        shutil.copytree(first_generation, tmp_path / name)
        made.append(open_world(tmp_path / name))
        return made[-1]

    yield make
    for world in made:
        world.catalog.close()


def open_world(folder: Path) -> World:
    """The world in a folder, as it was left."""
    catalog = Catalog(f"sqlite:///{folder / 'catalog.db'}")
    catalog.migrate()
    return World(catalog, Store((folder / "store").as_uri()), folder)


def fill(world: World, digits: Sequence[Digit], *, per_class: int, num_unlabeled: int, num_holdout: int) -> None:
    """Seal a labeled set, a holdout and two unlabeled shards from disjoint digits."""
    rest = list({digit.sha256: digit for digit in digits}.values())
    labeled = [d for c in range(10) for d in [d for d in rest if d.class_name == str(c)][:per_class]]
    taken = {d.sha256 for d in labeled}
    rest = [d for d in rest if d.sha256 not in taken]
    holdout, unlabeled = rest[:num_holdout], rest[num_holdout : num_holdout + num_unlabeled]
    world.seal(labeled, "labeled")
    world.seal(holdout, "holdout")
    world.seal(unlabeled[: num_unlabeled // 2], "unlabeled")
    world.seal(unlabeled[num_unlabeled // 2 :], "unlabeled")
