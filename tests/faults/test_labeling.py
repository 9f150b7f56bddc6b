"""Labeling while everything dies around it: each test ends with the ledger, by counting."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, update

from understudy import ledger, messages, registry, settings
from understudy.catalog import Catalog, claims, jobs, shards, versions
from understudy.catalog.tables import JobRow, LabelSetRow
from understudy.records import JobKind, JobState
from understudy.settings import WorkerSettings
from understudy.shards import ShardWriter
from understudy.store import Store
from understudy.testing import picture, tiny_artifact
from worker import reconcile
from worker.label import label
from worker.resources import Resources

ROOT = Path(__file__).parents[2]
CLASSES = ["red", "green", "blue"]
#: Nothing here takes longer, whatever the machine is busy with.
PATIENCE_S = 90.0
#: Short, so that a lost holder is followed soon.
LEASE_S = 1.5
IMAGES_PER_SHARD = 4


class World:
    """A catalog, a store and a queue, with a champion; and what their users do to them."""

    def __init__(self, read: WorkerSettings) -> None:
        self.settings = read
        self.catalog = Catalog(read.catalog_url)
        self.catalog.migrate()
        self.store = Store(read.store_url)
        self.app = messages.celery_app(read.broker_url)
        self.num_images = 0

    def promote(self, *, work: int = 0, **options: object) -> str:
        """A new champion; ``work`` makes it slow: a quarter of a millisecond each."""
        artifact, card = tiny_artifact(CLASSES, work=work, **options)
        registry.publish(self.store, self.catalog, card, artifact, b"")
        before = versions.champion(self.catalog)
        with self.catalog.write() as session:
            instead_of = before.version if before else None
            versions.promote(session, card.version, instead_of=instead_of, reason="test", actor="test")
        return card.version

    def seal(self, num_shards: int, bucket: str = "b") -> list[int]:
        """What the unpack task does with an upload: shards, and wishes for their label sets."""
        job = jobs.received(self.catalog, jobs.open_upload(self.catalog, JobKind.INGEST, bucket=bucket, params={}).id, [])
        claim = claims.claim(self.catalog, JobRow, job.id, lease_s=PATIENCE_S)
        assert claim is not None
        tasks = []
        for _ in range(num_shards):
            writer = ShardWriter(self.settings.data / "shard.tar", "unlabeled", bucket)
            for number in range(IMAGES_PER_SHARD):
                self.num_images += 1
                writer.add_image(picture(number % 3, 3, seed=self.num_images, size=16))
            sealed = shards.seal(self.catalog, claim, writer.seal(self.store), list(range(IMAGES_PER_SHARD)))
            tasks.append(sealed.label_task)
        with self.catalog.write() as session:
            claims.settle(session, claim, JobState.SUCCEEDED)
        return tasks

    def resources(self) -> Resources:
        return Resources(self.catalog, self.store, self.settings, lambda task, id: messages.ring(self.app, task, id))

    def running(self) -> list[int]:
        """The processes that hold label sets now."""
        with self.catalog.read() as session:
            held = select(LabelSetRow.owner).where(LabelSetRow.state == JobState.RUNNING)
            return [int(owner.split(":")[-2]) for owner in session.scalars(held) if owner]

    def num_done(self, version: str) -> int:
        return shards.label_progress(self.catalog, version).num_done
