"""Targets of many images in little memory: the top classes of each, and one number for all the others.

A thousand classes are 4 kB an image as probabilities, and 64 bytes so. A batch's are made whole when it is made.

Legend: D images; K classes that an image's probabilities are kept of; C classes of the student; N rows of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Whole = npt.NDArray[np.float32]  # (N, C), each row sums to 1
Classes = npt.NDArray[np.signedinteger]  # (D, K), int16 or int32


@dataclass(frozen=True)
class Targets:
    """One distribution an image."""

    classes: Classes
    probabilities: npt.NDArray[np.float32]  # (D, K)
    others: npt.NDArray[np.float32]  # (D,), what is left to 1
    known: npt.NDArray[np.bool_]  # (C,), the classes among which ``others`` is shared evenly, with those of the row

    def __len__(self) -> int:
        return len(self.others)

    def whole(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> Whole:
        """The distributions of some images: (N, C) float32."""
        chosen = self.classes[rows]
        num_others = max(1, int(self.known.sum()) - chosen.shape[1])
        share = self.others[rows][:, None] / np.float32(num_others)
        distributions = np.where(self.known[None, :], share, np.float32(0.0)).astype(np.float32)
        np.put_along_axis(distributions, chosen.astype(np.int64), self.probabilities[rows], axis=1)
        return distributions


def smoothed(chosen: npt.NDArray[np.integer], num_classes: int, smoothing: float) -> Targets:
    """One class an image, (D,), with a part spread over all classes, the image's own too."""
    own = 1.0 - smoothing + smoothing / num_classes
    return Targets(
        classes=_small(chosen[:, None], num_classes),
        probabilities=np.full((len(chosen), 1), own, dtype=np.float32),
        others=np.full(len(chosen), 1.0 - own, dtype=np.float32),
        known=np.ones(num_classes, dtype=np.bool_),
    )


def soft(
    classes: npt.NDArray[np.integer],
    probabilities: npt.NDArray[np.float32],
    tail: npt.NDArray[np.float32],
    known: npt.NDArray[np.bool_],
) -> Targets:
    """A teacher's distributions as label sets keep them: (D, K), (D, K), (D,), never smoothed; ``known`` to the teacher."""
    left = tail if int(known.sum()) > classes.shape[1] else np.zeros_like(tail)
    total = probabilities.sum(axis=1, dtype=np.float32) + left
    return Targets(
        classes=_small(classes, len(known)),
        probabilities=(probabilities / total[:, None]).astype(np.float32),
        others=(left / total).astype(np.float32),
        known=known,
    )


def class_kind(num_classes: int) -> type[np.signedinteger]:
    """What holds the number of one of so many classes."""
    return np.int16 if num_classes <= np.iinfo(np.int16).max else np.int32


def _small(classes: npt.NDArray[np.integer], num_classes: int) -> Classes:
    return classes.astype(class_kind(num_classes), copy=False)
