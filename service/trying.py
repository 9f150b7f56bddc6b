"""Asking a version that does not serve: loaded for the one question, beside what serves, and let go.

One at a time, on one thread of low priority and on the CPU, so that whoever classifies hardly notices, and the
memory of one model is all that it ever takes.
"""

import time
from functools import partial

from service import memory
from service.behind import Behind
from understudy import images, registry
from understudy.catalog import Catalog
from understudy.records import ClassProbability, Prediction
from understudy.store import Store
from understudy.work_records import Tried

#: Questions that may wait for the one that runs: a page that compares some versions asks as many at once.
MAX_WAITING = 8


class Trier:
    """Used from one event loop; close it at the end."""

    def __init__(self, catalog: Catalog, store: Store, *, max_waiting: int = MAX_WAITING) -> None:
        self._catalog, self._store = catalog, store
        self._behind = Behind("try", "questions to versions that do not serve", max_waiting=max_waiting)

    async def ask(self, version: str, data: bytes, *, top_k: int) -> Tried:
        """What a version says of an encoded image. Raises NotFound, ImageRefused, ArtifactRefused, Overloaded."""
        return await self._behind.run(partial(_ask, self._catalog, self._store, version, data, top_k))

    def close(self) -> None:
        """Wait for the question that runs, and drop those that wait."""
        self._behind.close()


def _ask(catalog: Catalog, store: Store, version: str, data: bytes, top_k: int) -> Tried:
    try:
        return _answer(catalog, store, version, data, top_k)
    finally:
        memory.release()


def _answer(catalog: Catalog, store: Store, version: str, data: bytes, top_k: int) -> Tried:
    began = time.perf_counter()
    engine = registry.load(store, catalog, version, provider="cpu", threads=1)
    loaded = time.perf_counter()
    row = engine.predict(images.load(data, engine.card.preprocessing)[None])[0].clip(0.0, 1.0)
    answered = time.perf_counter()
    best = (-row).argsort(kind="stable")[:top_k].tolist()
    classes = tuple(ClassProbability(label=engine.card.classes[i], probability=float(row[i])) for i in best)
    first = classes[0]
    return Tried(
        model=version,
        prediction=Prediction(label=first.label, probability=first.probability, classes=classes),
        load_ms=1000 * (loaded - began),
        answer_ms=1000 * (answered - loaded),
    )
