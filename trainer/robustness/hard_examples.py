"""Any folder of hard examples with class names, in the manner of ImageNet-A: ``folder/class name/image``.

As there, two accuracies: among all the classes of the model, and with the answer taken among those of
the folder alone (natural-adv-examples, eval.py), which does not blame a model for classes that cannot be meant.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.evaluate import BATCH, wilson
from trainer.robustness.measures import Show
from understudy import images
from understudy.engine import Engine, predict_all
from understudy.errors import ImageRefused, LabeledSetRefused, NotFound
from understudy.images import Pixels
from understudy.records import Interval, Record


class HardExamples(Record):
    """A model on a folder of hard examples."""

    version: str
    num_images: int
    accuracy: float  #: among all classes of the model
    interval: Interval
    accuracy_among: float  #: among the folder's classes alone: what is called ImageNet-A's accuracy
    classes: tuple[str, ...]  #: of the folder, and known to the model
    unknown_classes: tuple[str, ...]  #: of the folder, and not of the model: their images were left out
    unreadable: tuple[str, ...]  #: files that are no images, with the reason


def measure(engine: Engine, folder: Path, show: Show) -> HardExamples:
    """Ask a model about every image of a folder; ``show`` is told (images done, images in all).

    Raises NotFound if there is no such folder, LabeledSetRefused if it has no image of a class of the model.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}; name one that has a folder of images for each class")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = tuple(name for name in names if name in engine.card.classes)
    files = [(path, name) for name in classes for path in sorted((folder / name).rglob("*")) if path.is_file()]
    truth: list[str] = []
    unreadable: list[str] = []

    def inputs() -> Iterator[Pixels]:
        for done, (path, name) in enumerate(files, 1):
            try:
                pixels = images.load(path.read_bytes(), engine.card.preprocessing)
            except ImageRefused as error:
                unreadable.append(f"{path.relative_to(folder)}: {error}")
            else:
                truth.append(name)
                yield pixels
            show(done, len(files))

    rows = list(predict_all(engine, inputs(), batch=BATCH))
    if not rows:
        raise LabeledSetRefused(
            f"{folder} has no image of a class of model {engine.version}: its folders are {_some(names)}, the model's "
            f"classes are {_some(engine.card.classes)}"
        )
    probabilities = np.stack(rows)  # (N, C)
    index = [engine.card.classes.index(name) for name in classes]
    wanted = np.array([engine.card.classes.index(name) for name in truth])
    is_right = probabilities.argmax(axis=1) == wanted
    among = np.array(index)[probabilities[:, index].argmax(axis=1)]
    return HardExamples(
        version=engine.version,
        num_images=len(rows),
        accuracy=float(is_right.mean()),
        interval=wilson(int(is_right.sum()), len(rows)),
        accuracy_among=float((among == wanted).mean()),
        classes=classes,
        unknown_classes=tuple(name for name in names if name not in classes),
        unreadable=tuple(unreadable),
    )


def _some(names: tuple[str, ...] | list[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
