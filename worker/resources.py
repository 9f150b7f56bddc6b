"""What a worker works with: the catalog, the store, the doorbell and one engine, opened after the fork.

Importing this opens nothing. ONNX Runtime is imported with the first engine, never by the parent of a
pool: its threads do not survive a fork.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from understudy import cores
from understudy.catalog import Catalog
from understudy.settings import WorkerSettings
from understudy.store import Store
from worker.checkers import Checkers

if TYPE_CHECKING:
    from understudy.engine import Engine

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
        self.checkers = checkers or Checkers(max(1, cores.available() // settings.concurrency))
        self._engine: Engine | None = None

    @classmethod
    def open(cls, settings: WorkerSettings, ring: Ring) -> Resources:
        """Open what the settings name."""
        return cls(Catalog(settings.catalog_url), Store(settings.store_url), settings, ring)

    def engine(self, version: str) -> Engine:
        """A version's engine, kept until another version is asked for. Raises NotFound, ArtifactRefused."""
        from understudy import engine, registry

        if self._engine is None or self._engine.version != version:
            self._engine = None  # before the next one is loaded: two may not fit into memory
            threads = max(1, engine.available_cores() // self.settings.concurrency)
            # The arena: batches of 32 of an EfficientNet-B0 at 224 px take 0.6 of the time with it, and 0.6 instead of
            # 0.25 GB stay taken. Nearly all batches of labeling have one size, so it hardly grows.
            self._engine = registry.load(
                self.store, self.catalog, version, provider=self.settings.provider, threads=threads, arena=True
            )
        return self._engine

    def close(self) -> None:
        """Close the catalog, end the decoding children and let the engine go."""
        self._engine = None
        self.checkers.close()
        self.catalog.close()
