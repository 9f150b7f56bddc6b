"""One annotation as any tool's file has it, before anybody looks for the image or decides what its class is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Annotation:
    """What one person said of one image, once."""

    image: str  #: as the file names it
    paths: tuple[str, ...]  #: where below the images' folder to look for it: the first is meant, others are guesses
    classes: tuple[str, ...]  #: none: nobody gave it one; several: they were chosen together
    place: str  #: in the file, for people: ``line 3``
    is_cancelled: bool = False  #: whoever saw it skipped it
    detail: str | None = None  #: why it has no class, where the file tells
