"""The rows that the catalog's tests begin with: jobs, claims, shards and model versions."""

import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from understudy.catalog import Catalog, claims, jobs, shards, versions
from understudy.catalog.claims import Claim
from understudy.catalog.tables import JobRow
from understudy.records import (
    JobKind,
    ModelCard,
    Preprocessing,
    Probe,
    ShardManifest,
    ShardMember,
)
from understudy.testing import tiny_evaluation

ManifestOf = Callable[..., ShardManifest]
ClaimedJob = Callable[[], Claim]
AddVersion = Callable[[str], ModelCard]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _manifest(names: Iterable[str], *, split: str = "unlabeled", bucket: str | None = "shop") -> ShardManifest:
    """A shard of one-byte images, named by what it holds, as ``ShardWriter`` names it."""
    names = list(names)
    content = sha256(" ".join(names))
    return ShardManifest(
        key=f"shards/{bucket}/{content[:32]}.tar",
        sha256=content,
        num_bytes=10240,
        split=split,  # type: ignore[arg-type]
        bucket=bucket,
        members=tuple(
            ShardMember(
                sha256=sha256(name), name=name, offset=512 + 1024 * at, num_bytes=1, width=1, height=1, format="PNG",
                class_name=None if split == "unlabeled" else name[:1],
            )
            for at, name in enumerate(names)
        ),
    )  # fmt: skip


def _card(version: str) -> ModelCard:
    return ModelCard(
        version=version, generation=int(version[1:5]), student="tiny", num_parameters=1, classes=("a", "b"),
        preprocessing=Preprocessing(size=8), temperature=1.0, artifact_key=f"models/{version}/model.onnx",
        artifact_sha256="0" * 64, artifact_bytes=1, weights_key=f"models/{version}/weights.safetensors",
        probe=Probe(num_images=1, probabilities=((0.5, 0.5),), tolerance=1e-4), recipe={}, teacher=None, data={},
        training={}, evaluation=tiny_evaluation(version, "ab"), software={},
    )  # fmt: skip


@pytest.fixture
def card_of() -> Callable[[str], ModelCard]:
    """Makes a card by its version."""
    return _card


@pytest.fixture
def manifest_of() -> ManifestOf:
    """Makes a manifest of images by their names."""
    return _manifest


@pytest.fixture
def queued_job(catalog: Catalog) -> Callable[[], str]:
    """Opens an ingest job whose upload has arrived; gives its id."""

    def make() -> str:
        job = jobs.open_upload(catalog, JobKind.INGEST, bucket="shop", params={})
        return jobs.received(catalog, job.id, []).id

    return make


@pytest.fixture
def claimed_job(catalog: Catalog, queued_job: Callable[[], str]) -> ClaimedJob:
    """Opens an ingest job and claims it."""

    def make() -> Claim:
        claim = claims.claim(catalog, JobRow, queued_job(), lease_s=60)
        assert claim is not None
        return claim

    return make


@pytest.fixture
def add_version(catalog: Catalog) -> AddVersion:
    """Registers a version by its id, and nothing else."""

    def add(version: str) -> ModelCard:
        card = _card(version)
        versions.register(catalog, card)
        return card

    return add


@pytest.fixture
def crown(catalog: Catalog, add_version: AddVersion) -> Callable[[str], None]:
    """Registers a version and makes it the champion."""

    def make(version: str) -> None:
        add_version(version)
        champion = versions.champion(catalog)
        with catalog.write() as session:
            instead_of = champion.version if champion else None
            versions.promote(session, version, instead_of=instead_of, reason="test", actor="test")

    return make


@pytest.fixture
def labeled_set(catalog: Catalog, claimed_job: ClaimedJob) -> None:
    """A labeled set of four images: two classes, two images each."""
    manifest = _manifest(["a0", "a1", "b0", "b1"], split="labeled", bucket=None)
    shards.seal(catalog, claimed_job(), manifest, [0, 1, 2, 3])


@pytest.fixture
def in_threads() -> Callable[..., list[object]]:
    """Calls a function with 0, 1, ... from as many threads at one moment; gives each result or error."""

    def call(function: Callable[[int], object], num_threads: int) -> list[object]:
        start = threading.Barrier(num_threads)

        def one(number: int) -> object:
            start.wait()
            try:
                return function(number)
            except Exception as error:
                return error

        with ThreadPoolExecutor(num_threads) as pool:
            return list(pool.map(one, range(num_threads)))

    return call
