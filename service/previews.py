"""Pictures of what was quarantined: decoded in a program of its own, which may die of them and is started again.

``python -m service.previews`` answers a size and an image's bytes with a JPEG, or with why there is none.
"""

import struct
from collections.abc import Sequence

from service.apart import Answer, Apart, Died, serve
from understudy import images
from understudy.errors import ImageRefused

#: Pictures that may wait for the one that is made: a page full of them asks so many at once.
MAX_WAITING = 64
#: An image that takes longer is not shown. The largest that ingest would take need a second.
IMAGE_S = 10.0
#: What the program may take, as a worker's decoding children.
MAX_ADDRESS_BYTES = 1 * 2**30

_SIZE = struct.Struct(">I")
MADE, REFUSED = b"j", b"r"


class Previewer:
    """Used from one event loop; close it at the end."""

    def __init__(self, *, image_s: float = IMAGE_S) -> None:
        what = "pictures of quarantined entries"
        self.apart = Apart("service.previews", what, answer_s=image_s, max_waiting=MAX_WAITING)

    async def preview(self, data: bytes, size: int) -> bytes:
        """A JPEG of at most ``size`` pixels a side, of as much as can be decoded.

        Raises ImageRefused with the code no_preview, and Overloaded.
        """

        def question() -> Sequence[bytes]:
            return _SIZE.pack(size), data

        try:
            kind, answer = await self.apart.ask(question)
        except Died as died:
            raise ImageRefused(f"it cannot be shown: {died}", code="no_preview") from died
        if kind != MADE:
            raise ImageRefused(f"it cannot be shown: {answer.decode(errors='replace')[:500]}", code="no_preview")
        return answer

    def close(self) -> None:
        """End the program."""
        self.apart.close()


def _drawn(parts: list[bytes]) -> Answer:
    (size,) = _SIZE.unpack(parts[0])
    try:
        return MADE, images.thumbnail(parts[1], size)
    except ImageRefused as refused:
        return REFUSED, str(refused).encode()


if __name__ == "__main__":
    images.show_what_breaks_off()
    serve(_drawn, max_address_bytes=MAX_ADDRESS_BYTES)
