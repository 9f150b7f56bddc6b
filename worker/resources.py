"""What a worker works with: the catalog, the store, the doorbell and one engine, opened after the fork.

Importing this opens nothing. ONNX Runtime is imported with the first engine, never by the parent of a
pool: its threads do not survive a fork.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from understudy import cores, tuning
from understudy.catalog import Catalog, versions
from understudy.records import ModelCard
from understudy.settings import WorkerSettings
from understudy.store import Store
from worker.checkers import Checkers

if TYPE_CHECKING:
    from understudy.engine import Engine

#: Images in a batch on a CPU, at most.
MAX_CPU_BATCH = 4

#: Tells the workers of one piece of work: a task's name and an id.
Ring = Callable[[str, str | int], object]


class Resources:
    """One process's own. Whoever opens them closes them; a pool's child keeps them until it ends."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        settings: WorkerSettings,
        ring: Ring,
        checkers: Checkers | None = None,
    ) -> None:
        self.catalog, self.store, self.settings, self.ring = catalog, store, settings, ring
        # They start with the first image that is to be checked.
        self.checkers = checkers or Checkers(self.cores)
        self._engine: Engine | None = None
        self._batch = 1
        self._cards: dict[str, ModelCard] = {}

    @classmethod
    def open(cls, settings: WorkerSettings, ring: Ring) -> Resources:
        """Open what the settings name."""
        return cls(Catalog(settings.catalog_url), Store(settings.store_url), settings, ring)

    def engine(self, version: str) -> Engine:
        """A version's engine, kept until another version is asked for. Raises NotFound, ArtifactRefused."""
        from understudy import registry

        if self._engine is None or self._engine.version != version:
            self.release_engine()
            # One thread a call: a call a core gives the most images a second (tuning.layout). The arena: batches take 0.6
            # of the time with it. Nearly all batches of labeling have one size, so it hardly grows.
            self._engine = registry.load(
                self.store, self.catalog, version, provider=self.settings.provider, threads=1, arena=True
            )
            self._batch = self._measured_batch(self._engine)
        return self._engine

    @property
    def batch(self) -> int:
        """Images in a batch of the engine that was asked for last: on a GPU as many as the settings say.

        On a CPU what was measured to be best, mostly 1: larger ones lose the caches, unless a model is so small that the
        call costs more than the work.
        """
        return self._batch

    def _measured_batch(self, engine: Engine) -> int:
        if engine.provider != "cpu":
            return self.settings.label_batch
        most = min(self.settings.label_batch, MAX_CPU_BATCH)
        seconds = self.settings.measure_s
        tuned = tuning.tune(
            engine, provider="cpu", num_lanes=self.cores, threads=1, max_batch=most, seconds_each=seconds
        )
        return tuned.max_batch

    def release_engine(self) -> None:
        """Let the engine go, before another one is loaded: two may not fit into memory."""
        self._engine = None

    def card(self, version: str) -> ModelCard:
        """A version's card. Raises NotFound."""
        if version not in self._cards:
            self._cards[version] = versions.get(self.catalog, version).card
        return self._cards[version]

    @property
    def cores(self) -> int:
        """This process' share of the cores that the worker may use."""
        return max(1, cores.available() // self.settings.concurrency)

    def close(self) -> None:
        """Close the catalog, end the decoding children and let the engine go."""
        self._engine = None
        self.checkers.close()
        self.catalog.close()
