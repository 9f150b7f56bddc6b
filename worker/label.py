"""The label task: shards through their teacher's engine, each published as one label set.

A message is a doorbell: what is labeled, the catalog decides when it is answered. Reading, decoding, inference and
writing overlap, across shards too: while the lanes are busy with one, the next is claimed and read, and the last
one's labels are written. Whether somebody else is doing the same, the catalog decides at the end.
"""

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import numpy as np

from understudy import __version__, labels
from understudy.catalog import claims, shards
from understudy.catalog.claims import Claim
from understudy.engine import Engine, Probabilities
from understudy.errors import LeaseLost
from understudy.records import LabelTask, ShardManifest
from understudy.shards import read_images, read_manifest
from understudy.store import labels_key
from worker import attempts, careful
from worker.careful import MAX_QUARANTINED, Deadly
from worker.lanes import Encoded, Lanes
from worker.resources import Resources

log = logging.getLogger(__name__)

#: After this long a turn takes no further shard: whatever else was rung for, an upload above all, gets its turn.
TURN_S = 120.0


class Labeling:
    """One shard on its way through the lanes: its lease is kept until ``close``; what becomes of its images."""

    def __init__(self, resources: Resources, claim: Claim, ended: "Ended") -> None:
        self.claim = claim
        self.task: LabelTask = shards.label_task(resources.catalog, int(claim.id))
        self.manifest: ShardManifest | None = None
        self.error: Exception | None = None
        self.rows: dict[int, Probabilities] = {}
        self.left_out: dict[int, dict[str, str]] = {}
        self._ended = ended
        self._lock = threading.Lock()
        self._is_over = False
        self._keeping = ExitStack()
        self._keeping.enter_context(claims.keep(resources.catalog, claim))

    @property
    def is_careful(self) -> bool:
        """Whether its holders died often enough to look for the image that kills them."""
        return self.claim.num_spent >= shards.CAREFUL_FROM

    @property
    def is_over(self) -> bool:
        return self._is_over

    @property
    def members(self) -> ShardManifest:
        assert self.manifest is not None  # it is read before the first image
        return self.manifest

    def keep(self, position: int, row: Probabilities) -> None:
        """One image's probabilities: (C,) float32. Raises LeaseLost."""
        self.claim.check()
        with self._lock:
            self.rows[position] = row
        self._end_if_whole()

    def leave_out(self, position: int, code: str, detail: str) -> None:
        """An image that gets no label, and why."""
        sha256 = self.members.members[position].sha256
        log.warning("image %s is left out of its label set: %s", sha256, detail)
        with self._lock:
            self.left_out[position] = {"sha256": sha256, "code": code, "detail": detail}
        self._end_if_whole()

    def fail(self, error: Exception) -> None:
        """The first fault ends it."""
        self._end(error)

    def _end_if_whole(self) -> None:
        if len(self.rows) + len(self.left_out) == len(self.members.members):
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        with self._lock:
            if self._is_over:
                return
            self._is_over, self.error = True, error
        self._ended.put(self)

    def close(self) -> None:
        """Let the lease go."""
        self._keeping.close()


#: What the reader gives at its end: how many shards it fed to the lanes, and the first that needs others.
Reading = Future[tuple[int, Labeling | None]]
#: What the main thread waits for: shards that are over, and the reader's end.
Ended = queue.SimpleQueue[Labeling | Reading]


class Turn:
    """The shards that are labeled for one ring: one after another, until none waits or the turn is over."""

    def __init__(self, resources: Resources, turn_s: float) -> None:
        self._resources = resources
        self._until = time.monotonic() + turn_s
        self._ended: Ended = queue.SimpleQueue()
        self._open: list[Labeling] = []
        self._is_stopped = False
        self._care: careful.Classifier | None = None

    def run(self) -> int:
        """How many label sets were published. What cannot be finished is given back."""
        try:
            return self._run()
        except attempts.Stopped:
            for each in list(self._open):
                attempts.stopped(self._resources, each.claim)
            raise
        except Exception as error:
            for each in list(self._open):
                attempts.answer(self._resources, each.claim, partial(_raise, error))
            raise
        finally:
            self._end_care()
            for each in list(self._open):
                each.close()

    def _run(self) -> int:
        num_done = 0
        following = self._claim()
        while following is not None:
            labeling = following
            if labeling.is_careful:
                num_done += self._finish(labeling, partial(self._label_carefully, labeling))
                following = self._next()
                continue
            self._end_care()
            engine = self._engine(labeling)
            if engine is None:  # the other shards would fail on it too
                break
            done, following = self._through_lanes(engine, labeling)
            num_done += done
        return num_done

    def _claim(self) -> Labeling | None:
        claim = shards.claim_labels(self._resources.catalog, lease_s=self._resources.settings.lease_s)
        if claim is None:
            return None
        labeling = Labeling(self._resources, claim, self._ended)
        self._open.append(labeling)
        return labeling

    def _next(self) -> Labeling | None:
        """The next shard, unless the turn is over."""
        return None if self._is_stopped or time.monotonic() >= self._until else self._claim()

    def _engine(self, labeling: Labeling) -> Engine | None:
        """The teacher's engine. None: it cannot be had, and the shard was given back."""
        try:
            return self._resources.engine(labeling.task.version)
        except Exception as error:
            labeling.fail(error)
            self._finish(labeling, lambda: None)
            return None

    def _through_lanes(self, engine: Engine, first: Labeling) -> tuple[int, Labeling | None]:
        """Label ``first`` and what follows with the same engine: how many were, and the first that needs another."""
        with (
            ThreadPoolExecutor(1, thread_name_prefix="read") as reader,
            Lanes(engine, cores=self._resources.cores, max_batch=self._resources.batch) as lanes,
        ):
            reading = reader.submit(self._read, lanes, first)
            reading.add_done_callback(self._ended.put)
            try:
                return self._publish_all(engine, reading)
            except BaseException:
                self._is_stopped = True
                raise

    def _publish_all(self, engine: Engine, reading: Reading) -> tuple[int, Labeling | None]:
        """Publish every shard when it has come through the lanes, until the reader has ended and all have."""
        num_well = num_over = 0
        num_read: int | None = None
        while num_read is None or num_over < num_read:
            ended = self._ended.get()
            if isinstance(ended, Future):
                num_read, following = ended.result()
            elif ended in self._open:
                num_well += self._finish(ended, partial(self._publish, ended, engine))
                num_over += 1
        return num_well, following

    def _read(self, lanes: Lanes, first: Labeling) -> tuple[int, Labeling | None]:
        """Feed shard after shard to the lanes: how many, and the first that they cannot label."""
        num_read = 0
        following: Labeling | None = first
        while following is not None and following.task.version == first.task.version and not following.is_careful:
            try:
                for item in self._images(following):
                    if following.is_over or not lanes.feed.put(item):
                        break
            except Exception as error:
                following.fail(error)
            num_read += 1
            following = self._next()
        lanes.feed.close()
        return num_read, following

    def _images(self, labeling: Labeling) -> Iterator[Encoded]:
        store = self._resources.store
        labeling.manifest = read_manifest(store, labeling.task.shard.key)
        for index, (_, data) in enumerate(read_images(store, labeling.manifest)):
            yield Encoded(labeling, index, data)

    def _finish(self, labeling: Labeling, publish: attempts.Run) -> int:
        """Write down how a shard ended: 1 if it is labeled."""

        def end() -> None:
            if labeling.error is not None:
                raise labeling.error
            publish()

        try:
            tries = shards.LABEL_ATTEMPTS
            return int(attempts.answer(self._resources, labeling.claim, end, max_attempts=tries))
        finally:
            self._open.remove(labeling)
            labeling.close()

    def _label_carefully(self, labeling: Labeling) -> None:
        """Every image in a process of its own that may die of it."""
        classifier = self._classifier(labeling.task.version)
        deaths_before = classifier.num_deaths
        for _, position, data in self._images(labeling):
            labeling.claim.check()
            try:
                row = classifier.classify(data)
            except Deadly as deadly:
                labeling.leave_out(position, deadly.code, str(deadly))
                num_deaths = classifier.num_deaths - deaths_before
                if num_deaths > MAX_QUARANTINED:
                    raise RuntimeError(f"{num_deaths} images failed: it is not the images") from deadly
            else:
                labeling.keep(position, row)
        self._publish(labeling, None)

    def _classifier(self, version: str) -> careful.Classifier:
        """The process for one teacher's shards that need care, kept from one to the next."""
        if self._care is None or self._care.version != version:
            self._end_care()
            self._resources.release_engine()  # two may not fit into memory
            self._care = careful.Classifier(self._resources.settings, self._resources.card(version))
        return self._care

    def _end_care(self) -> None:
        if self._care is not None:
            self._care.close()
            self._care = None

    def _publish(self, labeling: Labeling, engine: Engine | None) -> None:
        task, manifest = labeling.task, labeling.members
        card = self._resources.card(task.version)
        found = sorted(labeling.rows)
        sha256s = [manifest.members[index].sha256 for index in found]
        probabilities = np.stack([labeling.rows[index] for index in found]) if found else None  # (N, C)
        if probabilities is None:
            probabilities = np.empty((0, len(card.classes)), dtype=np.float32)
        data = labels.to_parquet(sha256s, probabilities, self._provenance(labeling, engine))
        key = labels_key(task.version, task.shard.key, labeling.claim.attempt)
        store = self._resources.store
        store.put(key, data)
        try:
            sha256 = hashlib.sha256(data).hexdigest()
            shards.publish_labels(self._resources.catalog, labeling.claim, key=key, sha256=sha256, num_rows=len(found))
        except LeaseLost:  # nobody will ever read this object
            store.delete(key)
            raise
        log.info("labeled %s images of %s with %s", len(found), task.shard.key, task.version)

    def _provenance(self, labeling: Labeling, engine: Engine | None) -> dict[str, object]:
        card = self._resources.card(labeling.task.version)
        provider, variant = (engine.provider, engine.variant) if engine is not None else ("careful", "fp32")
        return {
            "version": card.version,
            "artifact_sha256": card.artifact_sha256,
            "generation": card.generation,
            "classes": list(card.classes),
            "temperature": card.temperature,  # inside the graph: the probabilities are calibrated already
            "preprocessing": card.preprocessing.model_dump(mode="json"),
            "shard": labeling.task.shard.key,
            "shard_sha256": labeling.members.sha256,
            "bucket": labeling.members.bucket,
            "attempt": labeling.claim.attempt,
            "images": len(labeling.members.members),
            "skipped": len(labeling.left_out),
            "left_out": [labeling.left_out[index] for index in sorted(labeling.left_out)],
            "software": {"understudy": __version__, "provider": provider, "variant": variant},
        }


def _raise(error: Exception) -> None:
    raise error


def label(resources: Resources, label_set_id: int, *, turn_s: float = TURN_S) -> None:
    """Answer a ring for one label set: label what is most due, which may be another. Nothing is raised but a stop."""
    num_done = Turn(resources, turn_s).run()
    log.info("rung for label set %s: labeled %s shards", label_set_id, num_done)
