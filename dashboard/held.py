"""Single images that somebody tries: in memory, the newest of them, each under a name that nobody guesses."""

import secrets
from collections import OrderedDict

#: All of those that are held together, whoever sent them.
MAX_BYTES, MAX_IMAGES = 128 * 2**20, 200


class Held:
    """Single images, the newest; used from one event loop."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._images: OrderedDict[str, bytes] = OrderedDict()

    def keep(self, data: bytes) -> str:
        """Hold an image; gives its name. The oldest make room."""
        token = secrets.token_urlsafe(16)
        self._images[token] = data
        while len(self._images) > MAX_IMAGES or sum(map(len, self._images.values())) > self._max_bytes:
            self._images.popitem(last=False)
        return token

    def find(self, token: str) -> bytes | None:
        """The image; None: it is held no more."""
        return self._images.get(token)
