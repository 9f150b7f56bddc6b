"""The fast gradient sign method: one step of every pixel against the model (paper, section 3.4, figure 4).

The gradient is torch's, of the student rebuilt from its weights; the answers are those of the exported
artifact, whose input is uint8: ε is a whole number of levels, so nothing is lost by rounding. The
figures are a comparison of models at one size, not a claim to be safe from attackers.
"""

from collections.abc import Sequence

import numpy as np
import torch

from trainer import export, model
from trainer.evaluate import BATCH
from trainer.export import Served
from trainer.robustness.measures import Answers, Show, truth_of
from trainer.robustness.sample import Sample
from understudy import images
from understudy.engine import Engine
from understudy.images import Pixels
from understudy.records import ModelCard

#: Levels of 0 to 255 (figure 4).
EPSILONS = (2, 4, 8, 16)


def rebuilt(card: ModelCard, weights: bytes) -> Served:
    """The student of a card as torch has it, un-noised."""
    student = model.build(card.student, len(card.classes), dropout=0.0, drop_path_rate=0.0)
    export.load_weights(student, weights)
    return export.served(student, card.preprocessing, card.temperature)


def attacked(served: Served, pixels: Pixels, truth: Answers, epsilons: Sequence[int] = EPSILONS) -> list[Pixels]:
    """Inputs moved to where their true class loses most, once for each ε: (N, s, s, 3) uint8 each.

    ``truth`` is (N,); an image of a class that the model does not know (-1) is not moved, for it is wrong anyway.
    """
    is_known = torch.from_numpy(truth >= 0)
    inputs = served.normalise(torch.from_numpy(pixels)).requires_grad_()
    logits = served.student(inputs) / served.temperature
    # The mean would do as well: only the signs are used, and no image's loss depends on another.
    loss = torch.nn.functional.cross_entropy(logits[is_known], torch.from_numpy(truth)[is_known], reduction="sum")
    (gradient,) = torch.autograd.grad(loss, inputs)
    signs = gradient.permute(0, 2, 3, 1).sign().to(torch.int16).numpy()  # normalisation keeps every sign
    return [np.clip(pixels.astype(np.int16) + epsilon * signs, 0, 255).astype(np.uint8) for epsilon in epsilons]


def measure(engine: Engine, served: Served, sample: Sample, show: Show) -> dict[int, float]:
    """Accuracy at each ε, and at 0; ``show`` is told (images done, images in all).

    Raises ArtifactRefused if the rebuilt student is not the exported one.
    """
    truth = truth_of(engine, sample)
    right = dict.fromkeys((0, *EPSILONS), 0)
    encoded = [data for _, data in sample]
    for start in range(0, len(sample), BATCH):
        pixels = np.stack([images.load(data, engine.card.preprocessing) for data in encoded[start : start + BATCH]])
        chosen = truth[start : start + BATCH]
        export.check_parity(served, engine, pixels)
        for epsilon, moved in zip(right, [pixels, *attacked(served, pixels, chosen)], strict=True):
            right[epsilon] += int((engine.predict(moved).argmax(axis=1) == chosen).sum())
        show(start + len(pixels), len(sample))
    return {epsilon: count / len(sample) for epsilon, count in right.items()}
