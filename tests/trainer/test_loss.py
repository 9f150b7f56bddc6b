import math

import numpy as np
import pytest
import torch

from trainer import loss
from trainer.data import Batch
from understudy.errors import RecipeRefused


def test_the_loss_by_hand():
    """Mean over labeled plus weight × mean over pseudo-labeled: log 2 each for equal logits."""
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [math.log(3), 0.0]])
    targets = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])

    both = loss.losses(logits, targets, 2, 3.0)

    assert float(both.labeled) == pytest.approx(math.log(2))
    pseudo = -0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4)
    assert both.pseudo is not None
    assert float(both.pseudo) == pytest.approx(pseudo)
    assert float(both.loss) == pytest.approx(math.log(2) + 3 * pseudo)
    assert loss.losses(logits[:2], targets[:2], 2, 3.0).pseudo is None


@pytest.mark.parametrize("num", [2, 3, 4])
@pytest.mark.parametrize("num_labeled", [4, 6, 14])
def test_the_losses_of_all_portions_add_up_to_the_batchs(num, num_labeled):
    """Labeled and other images each keep their weight, also where the rows cannot be divided evenly."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(14, 3)).astype(np.float32))
    targets = rng.dirichlet(np.ones(3), 14).astype(np.float32)
    pixels = np.arange(14, dtype=np.uint8).reshape(14, 1, 1, 1)
    whole = loss.losses(logits, torch.from_numpy(targets), num_labeled, 2.5)

    parts = list(loss.portions(Batch(pixels, targets, num_labeled), num))

    assert sorted(int(p) for part in parts for p in part.pixels.ravel()) == list(range(14))
    found = [
        loss.losses(
            logits[torch.from_numpy(part.pixels.ravel().astype(np.int64))], torch.from_numpy(part.targets),
            part.num_labeled, 2.5, part.labeled_share, part.pseudo_share,
        )
        for part in parts
    ]  # fmt: skip
    assert float(sum(each.loss for each in found)) == pytest.approx(float(whole.loss), rel=1e-6)
    assert float(sum(each.labeled for each in found)) == pytest.approx(float(whole.labeled), rel=1e-6)
    assert (whole.pseudo is None) == (num_labeled == 14)


def test_a_portion_may_be_without_labeled_images():
    """One labeled image for two portions: its loss is counted once, and nothing is divided by zero."""
    batch = Batch(np.zeros((5, 1, 1, 3), np.uint8), np.full((5, 2), 0.5, np.float32), 1)

    parts = list(loss.portions(batch, 2))

    assert [part.num_labeled for part in parts] == [0, 1]
    found = loss.losses(torch.zeros(2, 2), torch.from_numpy(parts[0].targets), 0, 3.0, 0.0, parts[0].pseudo_share)
    assert found.labeled is None
    assert float(found.loss) == pytest.approx(3 * 0.5 * math.log(2))


def test_parts_of_one_image_are_refused():
    """BatchNorm needs two; the message says what to change."""
    loss.refuse_thin_parts(8, 8, 8, 1)
    with pytest.raises(RecipeRefused, match="accumulate=5 in 2 processes leaves fewer than 2 of a batch of 16"):
        loss.refuse_thin_parts(8, 8, 5, 2)
