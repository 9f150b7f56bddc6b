import logging

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer import model, train
from trainer.data import Batch
from understudy import recipes
from understudy.architectures import SIZES
from understudy.errors import RecipeRefused

#: Millions of parameters at 1,000 classes (Tan & Le 2019, table 2, for B0 to B7; the paper's 140, 273 and 480 for
#: L0 to L2), measured on timm's models where it has them.
PARAMETERS = {
    "b0": 5.29, "b1": 7.79, "b2": 9.11, "b3": 12.23, "b4": 19.34, "b5": 30.39, "b6": 43.04, "b7": 66.35, "b8": 87.41,
    "l0": 140.76, "l1": 272.63, "l2": 480.31,
}  # fmt: skip


def build(student, num_classes=10, **more):
    return model.build(student, num_classes, dropout=0.2, drop_path_rate=0.1, **more)


@pytest.mark.parametrize("student", ["efficientnet@width=wide", "efficientnet@b9", "hf-hub:somebody/something"])
def test_what_is_not_a_student_is_refused(student):
    """A parse error is the request's fault; nothing is downloaded to find out."""
    with pytest.raises(RecipeRefused):
        build(student)


def test_a_near_miss_is_told_what_it_meant():
    """Names of timm are long."""
    with pytest.raises(RecipeRefused, match="tf_efficientnet_b0"):
        build("tf_eficientnet_b0")


@pytest.mark.parametrize(
    ("student", "size"),
    [("efficientnet", 16), ("efficientnet@stages=4,stride=1", 32), ("efficientnet@phi=-4,small", 32)],
)
def test_a_student_gives_one_logit_a_class(student, size):
    """The contract of every architecture."""
    net = build(student, 7).eval()

    with torch.inference_mode():
        assert net(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_sizes_grow_with_width_and_depth():
    """Numbers of parameters are golden: an upgrade of timm must not change what a name means."""
    sizes = [model.num_parameters(build(s)) for s in ("efficientnet", "efficientnet@width=1.5", "efficientnet@depth=2")]

    assert sizes == [45_976, 110_466, 97_564]


@pytest.mark.parametrize("size", SIZES)
def test_the_papers_sizes_have_the_papers_parameters(size):
    """Built on torch's meta device, where numbers cost nothing."""
    with torch.device("meta"):
        net = build(f"efficientnet@{size}", 1000)

    assert round(model.num_parameters(net) / 1e6, 2) == PARAMETERS[size]


@pytest.mark.parametrize("size", ["b0", "b2", "b4"])
def test_the_papers_sizes_have_timms_names(size):
    """So that timm's own weights load."""
    with torch.device("meta"):
        ours, timms = build(f"efficientnet@{size}", 1000), build(f"tf_efficientnet_{size}", 1000)

    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in timms.state_dict().items()}


def test_a_compound_coefficient_of_zero_is_b0():
    """And the next ones are larger."""
    with torch.device("meta"):
        sizes = [model.num_parameters(build(f"efficientnet@phi={phi}", 1000)) for phi in (0, 0.5, 2.5)]

    assert sizes[0] == 5_288_548
    assert sizes == sorted(set(sizes))


def test_small_images_keep_their_resolution_longer():
    """The official SVHN variant: 32 px end as 4 × 4, not as one."""
    with torch.inference_mode():
        shapes = [build(s).eval().forward_features(torch.zeros(1, 3, 32, 32)).shape[2:] for s in SVHN]

    assert shapes == [(1, 1), (4, 4)]


SVHN = ("efficientnet@phi=-5", "efficientnet@phi=-5,small")


@pytest.mark.parametrize("student", ["efficientnet@phi=-5", "efficientnet", "resnet10t"])
def test_batch_norm_has_the_recipes_momentum(student):
    """Every one of them; ours have the official epsilon too."""
    norms = [m for m in build(student, batch_norm_momentum=0.01).modules() if isinstance(m, _BatchNorm)]

    assert {norm.momentum for norm in norms} == {0.01}
    if student != "resnet10t":
        assert {norm.eps for norm in norms} == {1e-3}


def test_the_last_block_is_dropped_most():
    """Linear from 0; a block without a way around it never is (survival 0.8 in the paper is a rate of 0.2)."""
    net = model.build("efficientnet@phi=-5", 10, dropout=0.5, drop_path_rate=0.2)
    rates = [
        block.drop_path.drop_prob for stage in net.blocks for block in stage if hasattr(block.drop_path, "drop_prob")
    ]

    assert net.drop_rate == 0.5
    assert rates == sorted(rates)
    assert 0 < rates[0] < rates[-1] < 0.2


def test_a_smaller_student_is_refused_or_warned_of(caplog):
    """The paper's student is equal or larger; a smaller one is a distillation."""
    model.refuse_smaller("a", 10, "b", 10)
    with pytest.raises(RecipeRefused, match="allow_smaller"):
        model.refuse_smaller("a", 9, "b", 10)
    assert not caplog.records

    model.refuse_smaller("a", 9, "b", 10, is_allowed=True)

    assert [(r.levelno, "distils" in r.getMessage()) for r in caplog.records] == [(logging.WARNING, True)]


# -- FixRes -----------------------------------------------------------------------------------------


def blocks_of(net):
    return [block for stage in net.blocks for block in stage]


def learner(net, **overrides):
    fields = {"size": 16, "student_steps": 4, "warmup_steps": 0, "frozen_blocks": 2, "start": "teacher"}
    return train.Learner(net, recipes.recipe("tiny", fields | overrides), 4, 0, torch.device("cpu"))


def learn(teaching, steps=2):
    pixels = torch.randint(0, 255, (8, 16, 16, 3), dtype=torch.uint8).numpy()
    targets = torch.eye(10)[torch.arange(8)].numpy()
    for step in range(steps):
        teaching.learn(Batch(pixels=pixels, targets=targets, num_labeled=8), step, 1.0)


def test_frozen_blocks_neither_learn_nor_drop_nor_follow():
    """Weights, BatchNorm statistics and stochastic depth of stem and first blocks; the rest learns."""
    net = build("efficientnet")
    model.freeze(net, 2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    frozen = ("conv_stem.", "bn1.", "blocks.0.0.", "blocks.1.0.")

    teaching = learner(net)
    learn(teaching)

    changed = {name for name, tensor in teaching.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not {name for name in changed if name.startswith(frozen)}
    parameters = {name for name, _ in net.named_parameters() if not name.startswith(frozen)}
    assert parameters <= changed
    assert all(not m.training for block in blocks_of(teaching.model)[:2] for m in block.modules())
    assert all(m.training for block in blocks_of(teaching.model)[2:] for m in block.modules())
    averaged = teaching.ema.module.state_dict()
    assert all(torch.equal(averaged[name], before[name]) for name in before if name.startswith(frozen))


def test_more_frozen_blocks_than_there_are_is_all_of_them():
    """What is behind the blocks goes on learning: last convolution, its BatchNorm, classifier."""
    net = build("efficientnet")
    model.freeze(net, 1000)

    assert {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad} == {
        "conv_head", "bn2", "classifier"
    }  # fmt: skip


def test_other_architectures_cannot_be_frozen():
    """They have no blocks that mean the same."""
    with pytest.raises(RecipeRefused, match="frozen_blocks to null"):
        model.freeze(nn.Linear(2, 2), 1)


def test_a_checkpoint_of_a_frozen_student_goes_on():
    """The optimizer knows only what learns, before and after."""
    net = build("efficientnet")
    model.freeze(net, 2)
    first = learner(net)
    learn(first)
    tensors = {name: tensor.clone() for name, tensor in first.tensors().items()}

    again = build("efficientnet")
    model.freeze(again, 2)
    second = learner(again)
    second.restore(tensors)

    assert second.tensors().keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in second.tensors().items())


def test_an_unknown_device_is_refused():
    """A setting that names no device is not a crash."""
    with pytest.raises(RecipeRefused, match="abacus"):
        model.device("abacus")
