"""The label task: one shard through its teacher's engine, published as one label set.

It decodes in threads ahead of the engine, so that neither waits for the other. Whether somebody else is
doing the same, the catalog decides at the end.
"""

import functools
import hashlib
import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from understudy import __version__, images, labels
from understudy import engine as engines
from understudy.catalog import shards
from understudy.catalog.claims import Claim
from understudy.catalog.tables import LabelSetRow
from understudy.engine import Engine
from understudy.errors import ImageRefused, LeaseLost
from understudy.images import Pixels
from understudy.records import LabelTask, Preprocessing, ShardManifest
from understudy.shards import read_images, read_manifest
from understudy.store import Store, labels_key
from worker import attempts
from worker.resources import Resources

log = logging.getLogger(__name__)

#: Threads that decode. More than this only wait for the engine.
MAX_DECODERS = 4
#: Batches that lie decoded before the engine: one that it takes next, one that is being made.
BATCHES_AHEAD = 2


def label(resources: Resources, label_set_id: int) -> None:
    """Make one attempt at a label set, and write down how it ended. Nothing is raised but a stop."""
    attempts.attempt(resources, LabelSetRow, label_set_id, functools.partial(_label, resources))


def _label(resources: Resources, claim: Claim) -> None:
    task = shards.label_task(resources.catalog, int(claim.id))
    engine = resources.engine(task.version)
    manifest = read_manifest(resources.store, task.shard.key)
    sha256s: list[str] = []

    def inputs() -> Iterator[Pixels]:
        for sha256, pixels in _decode(resources, manifest, engine.card.preprocessing):
            claim.check()
            sha256s.append(sha256)
            yield pixels

    rows = list(engines.predict_all(engine, inputs(), batch=resources.settings.label_batch))
    probabilities = np.array(rows, dtype=np.float32).reshape(len(rows), len(engine.card.classes))  # (N, C)
    data = labels.to_parquet(sha256s, probabilities, _provenance(task, manifest, engine, len(rows)))
    _publish(resources, claim, task, data, len(rows))
    log.info("labeled %s images of %s with %s", len(rows), task.shard.key, task.version)


def _publish(resources: Resources, claim: Claim, task: LabelTask, data: bytes, num_rows: int) -> None:
    key = labels_key(task.version, task.shard.key, claim.attempt)
    resources.store.put(key, data)
    try:
        sha256 = hashlib.sha256(data).hexdigest()
        shards.publish_labels(resources.catalog, claim, key=key, sha256=sha256, num_rows=num_rows)
    except LeaseLost:  # nobody will ever read this object
        resources.store.delete(key)
        raise


def _provenance(task: LabelTask, manifest: ShardManifest, engine: Engine, num_rows: int) -> dict[str, object]:
    return {
        "version": task.version,
        "classes": list(engine.card.classes),
        "shard": task.shard.key,
        "shard_sha256": manifest.sha256,
        "images": len(manifest.members),
        "skipped": len(manifest.members) - num_rows,
        "software": {"understudy": __version__, "provider": engine.provider, "variant": engine.variant},
    }


def _decode(
    resources: Resources, manifest: ShardManifest, preprocessing: Preprocessing
) -> Iterator[tuple[str, Pixels]]:
    """Every image of a shard as its sha-256 and its input, in order; what cannot be decoded now is left out."""
    ahead = BATCHES_AHEAD * resources.settings.label_batch
    workers = min(MAX_DECODERS, engines.available_cores())
    waiting: deque[tuple[str, Future[Pixels | None]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        for sha256, data in _images(resources.store, manifest):
            waiting.append((sha256, pool.submit(_load, sha256, data, preprocessing)))
            if len(waiting) >= ahead:
                yield from _next(waiting)
        while waiting:
            yield from _next(waiting)


def _images(store: Store, manifest: ShardManifest) -> Iterator[tuple[str, bytes]]:
    return ((member.sha256, data) for member, data in read_images(store, manifest))


def _next(waiting: "deque[tuple[str, Future[Pixels | None]]]") -> Iterator[tuple[str, Pixels]]:
    sha256, decoded = waiting.popleft()
    pixels = decoded.result()
    if pixels is not None:
        yield sha256, pixels


def _load(sha256: str, data: bytes, preprocessing: Preprocessing) -> Pixels | None:
    try:
        return images.load(data, preprocessing)
    except ImageRefused as refused:  # it was decoded once, at ingest: another version of the decoder
        log.warning("image %s is left out of its label set: %s", sha256, refused)
        return None
