"""One claimed generation being worked on: what with, and how a step is done once."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from trainer.distributed import Ranks
from trainer.progress import Progress
from understudy.catalog import Catalog
from understudy.catalog.claims import Claim
from understudy.records import Record
from understudy.store import Store, generation_key

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Workplace:
    """What a generation is worked on with; opened by ``__main__``."""

    catalog: Catalog
    store: Store
    device: str  #: torch's, or auto
    provider: str  #: ONNX Runtime's, or auto
    poll_s: float
    ring: Callable[[int], bool]  #: tells the workers of a wanted label set; False: nobody could be told
    mlflow_url: str = ""  #: where ended generations are told; empty: nowhere
    spool: Path | None = None  #: for what does not fit into memory; None: the system's temporary folder
    ranks: Ranks = field(default_factory=Ranks)  #: the processes that train together
    data_workers: int = -1  #: processes that make batches; 0: threads, -1: by the cores


@dataclass(frozen=True)
class Work:
    """One claimed generation being worked on."""

    place: Workplace
    claim: Claim
    progress: Progress
    number: int

    def step(self, name: str, kind: type[R], make: Callable[[], R]) -> R:
        """A step's file: read if it is there, else made and written. Raises Stopped between two steps."""
        self.progress.check()
        key = generation_key(self.number, name)
        if not self.place.store.exists(key):
            made = make()
            self.claim.check()
            self.place.store.put(key, made.to_json())
        return kind.model_validate_json(self.place.store.get(key))

    def keep(self, name: str, make: Callable[[], bytes]) -> bytes:
        """An object of a step: read if it is there, else made and written."""
        key = generation_key(self.number, name)
        if not self.place.store.exists(key):
            made = make()
            self.claim.check()
            self.place.store.put(key, made)
        return self.place.store.get(key)

    def draw(self, name: str, make: Callable[[], bytes]) -> None:
        """A picture for people, unless it is there. One that cannot be made is a line in the log, and ends nothing."""
        if self.place.store.exists(generation_key(self.number, name)):
            return
        try:
            picture = make()
        except Exception:  # names of classes are the users', fonts the machine's
            log.warning("generation %d has no picture %s", self.number, name, exc_info=True)
        else:
            self.keep(name, lambda: picture)

    def get(self, name: str) -> bytes:
        """An object of a step that is done."""
        return self.place.store.get(generation_key(self.number, name))

    def shows(self, step: str) -> Callable[[int, int], None]:
        """What a step calls with (units done, units in all)."""
        return partial(self.progress.show, step)

    def shows_and_checks(self, step: str) -> Callable[[int, int], None]:
        """The same for a step that may end between two units: it raises Stopped or LeaseLost there."""

        def show(done: int, total: int) -> None:
            self.progress.show(step, done, total)
            self.progress.check()

        return show


def made(folder: Path | None) -> Path | None:
    """A folder, made if it is not there; None is the system's temporary one."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return folder
