"""``Idempotency-Key``: how a request carries it, and what is compared when it comes again."""

import hashlib
from typing import Annotated

from fastapi import Header

from understudy.catalog.idempotency import Key

#: What a client chooses; a UUID will do.
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,200}$",
        description="chosen by you, for example a UUID: the same key with the same request again, within a week, gives "
        "the same job and makes no second one; with another request it is refused (409 `idempotency_mismatch`)",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
]


def key_of(actor: str, act: str, key: str | None) -> Key | None:
    """The key of one client's request. None: it sent none."""
    return None if key is None else Key.of(actor, act, key)


class Fingerprint:
    """A SHA-256 over the parts of a request, in which no two requests that differ are the same."""

    def __init__(self, *words: str) -> None:
        self._digest = hashlib.sha256()
        for word in words:
            self.begin(word)

    def begin(self, word: str) -> None:
        """Another part, by its name."""
        encoded = word.encode("utf-8", "surrogatepass")
        self._digest.update(b"\0part\0%d\0" % len(encoded) + encoded)

    def update(self, data: bytes) -> None:
        """More bytes of the part."""
        self._digest.update(data)

    def end(self, num_bytes: int) -> None:
        """The part had so many bytes."""
        self._digest.update(b"\0end\0%d\0" % num_bytes)

    def hex(self) -> str:
        """Of all so far."""
        return self._digest.hexdigest()
