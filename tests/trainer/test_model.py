import pytest
import torch
from safetensors.torch import save

from trainer import model
from trainer.model import SmallEfficientNet
from understudy.errors import RecipeRefused


def build(student, num_classes=10):
    return model.build(student, num_classes, dropout=0.2, drop_path_rate=0.1)


def test_the_grammar_of_small_efficientnets():
    """Every key has a default, in any order."""
    assert model.parse("efficientnet") == SmallEfficientNet()
    assert model.parse("efficientnet@stages=4,width=1.5") == SmallEfficientNet(width=1.5, stages=4)


@pytest.mark.parametrize(
    "student",
    [
        "efficientnet@height=2",
        "efficientnet@width",
        "efficientnet@width=wide",
        "efficientnet@width=1,width=2",
        "efficientnet@stages=3.5",
        "efficientnet@stages=9",
        "efficientnet@stride=3",
        "efficientnet@width=1000",
        "hf-hub:somebody/something",
    ],
)
def test_what_is_not_a_student_is_refused(student):
    """A parse error is the request's fault; nothing is downloaded to find out."""
    with pytest.raises(RecipeRefused):
        build(student)


def test_a_near_miss_is_told_what_it_meant():
    """Names of timm are long."""
    with pytest.raises(RecipeRefused, match="tf_efficientnet_b0"):
        build("tf_eficientnet_b0")


@pytest.mark.parametrize(("student", "size"), [("efficientnet", 16), ("efficientnet@stages=4,stride=1", 32)])
def test_a_student_gives_one_logit_a_class(student, size):
    """The contract of every architecture."""
    net = build(student, 7).eval()

    with torch.inference_mode():
        assert net(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_sizes_grow_with_width_and_depth():
    """Numbers of parameters are golden: an upgrade of timm must not change what a name means."""
    sizes = [model.num_parameters(build(s)) for s in ("efficientnet", "efficientnet@width=1.5", "efficientnet@depth=2")]

    assert sizes == [45_976, 110_466, 97_564]


def test_a_model_of_timm_goes_by_its_name():
    """EfficientNet-B0 of the paper, with this many classes."""
    assert model.num_parameters(build("efficientnet_b0", 1000)) == 5_288_548


def test_a_smaller_student_is_refused():
    """The paper's student is equal or larger."""
    model.refuse_smaller("a", 10, "b", 10)
    with pytest.raises(RecipeRefused, match="allow_smaller"):
        model.refuse_smaller("a", 9, "b", 10)


def test_uploaded_weights_are_a_start_even_with_other_classes():
    """A classifier of another shape is left fresh; everything else is taken."""
    source, student = build("efficientnet", 10), build("efficientnet", 4)

    fresh = model.start_from(student, save(source.state_dict()))

    assert fresh == ["classifier.weight", "classifier.bias"]
    assert torch.equal(student.conv_stem.weight, source.conv_stem.weight)
    assert model.start_from(build("efficientnet", 10), save(source.state_dict())) == []


def test_weights_of_another_architecture_are_refused_by_name():
    """The first tensors that do not fit are named."""
    with pytest.raises(RecipeRefused, match="blocks"):
        model.start_from(build("efficientnet@width=1.5"), save(build("efficientnet").state_dict()))
    with pytest.raises(RecipeRefused, match="safetensors"):
        model.start_from(build("efficientnet"), b"nonsense")


def test_an_unknown_device_is_refused():
    """A setting that names no device is not a crash."""
    with pytest.raises(RecipeRefused, match="abacus"):
        model.device("abacus")
