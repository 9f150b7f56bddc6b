"""Asking a version that does not serve: its file and the image go to a program of its own, which loads it and lets it go.

One question at a time and one model's memory at the most, at low priority and in another interpreter, so that whoever
classifies hardly notices. That program is ``service/tried.py``.
"""

import json
from collections.abc import Sequence

from service.apart import Apart, Died
from service.tried import ANSWER, IMAGE
from understudy import registry
from understudy.catalog import Catalog
from understudy.errors import ArtifactRefused, ImageRefused
from understudy.store import Store
from understudy.work_records import Tried

#: Questions that may wait for the one that runs: a page that compares some versions asks as many at once.
MAX_WAITING = 8
#: To load the largest students on a busy machine, and to ask them once.
ANSWER_S = 60.0


class Trier:
    """Used from one event loop; close it at the end."""

    def __init__(self, catalog: Catalog, store: Store, *, answer_s: float = ANSWER_S) -> None:
        self._catalog, self._store = catalog, store
        what = "questions to versions that do not serve"
        self.apart = Apart("service.tried", what, answer_s=answer_s, max_waiting=MAX_WAITING)

    async def ask(self, version: str, data: bytes, *, top_k: int) -> Tried:
        """What a version says of an encoded image. Raises NotFound, ImageRefused, ArtifactRefused, Overloaded."""

        def question() -> Sequence[bytes]:
            artifact, card = registry.fetch(self._store, self._catalog, version)
            return card.model_dump_json().encode(), artifact, data, str(top_k).encode()

        try:
            kind, answer = await self.apart.ask(question)
        except Died as died:
            raise ArtifactRefused(f"model {version} cannot be asked: {died}", code="not_answered") from died
        said = json.loads(answer)
        if kind == ANSWER:
            return Tried(**said)
        refused = ImageRefused if kind == IMAGE else ArtifactRefused
        raise refused(str(said["detail"]), code=str(said["code"]))

    def close(self) -> None:
        """End the program."""
        self.apart.close()
