import numpy as np
import pytest
import torch
from torch import nn

from trainer import export
from trainer.robustness import fgsm
from trainer.robustness.sample import sample
from understudy import registry
from understudy.catalog import shards
from understudy.errors import ArtifactRefused
from understudy.records import Preprocessing


class Sum(nn.Module):
    """Two classes: the sum of all channels, and its opposite."""

    def forward(self, inputs):
        total = inputs.sum(dim=(1, 2, 3)) * 1e-3
        return torch.stack([total, -total], dim=1)


def test_every_pixel_moves_by_epsilon_against_the_truth():
    """Away from the class that likes light, towards darkness; what is at an end stays there; no class, no move."""
    served = export.served(Sum(), Preprocessing(size=4, mean=(0.5,) * 3, std=(0.2, 0.5, 1.0)), 1.0)
    pixels = np.full((3, 4, 4, 3), 100, dtype=np.uint8)
    pixels[0, 0] = 1

    small, large = fgsm.attacked(served, pixels, np.array([0, 1, -1]), (2, 16))

    assert (large[0, 1:] == 84).all()
    assert (large[0, 0] == 0).all()
    assert (large[1] == 116).all()
    assert (small[1] == 102).all()
    assert (large[2] == 100).all()


@pytest.fixture
def champion(make_taught_world):
    """A trained student of digits: its engine, its weights and its holdout."""
    world = make_taught_world()
    loaded = registry.load(world.store, world.catalog, registry.champion(world.catalog), provider="cpu")
    holdout = [shard.key for shard in shards.of_split(world.catalog, "holdout")]
    return loaded, world.store.get(loaded.card.weights_key), sample(world.store, holdout, 40)


def test_an_attack_costs_accuracy(champion):
    """Of the student that was rebuilt from its weights, through the exported artifact; more, the larger the step."""
    loaded, weights, chosen = champion
    shown = []

    found = fgsm.measure(loaded, fgsm.rebuilt(loaded.card, weights), chosen, lambda *at: shown.append(at))

    assert tuple(found) == (0, 2, 4, 8, 16)
    assert found[0] > found[16]
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert shown == [(32, 40), (40, 40)]


def test_other_weights_are_not_the_model(champion):
    """What attacks must be what is attacked."""
    loaded, weights, chosen = champion
    served = fgsm.rebuilt(loaded.card, weights)
    with torch.no_grad():
        served.student.get_classifier().bias += torch.arange(10.0)

    with pytest.raises(ArtifactRefused, match="off the model"):
        fgsm.measure(loaded, served, chosen, lambda *_: None)
