import pytest

from understudy import architectures
from understudy.architectures import SIZES, ScaledEfficientNet, SmallEfficientNet
from understudy.errors import RecipeRefused


def test_the_grammar_of_small_efficientnets():
    """Every key has a default, in any order."""
    assert architectures.parse("efficientnet") == SmallEfficientNet()
    assert architectures.parse("efficientnet@stages=4,width=1.5") == SmallEfficientNet(width=1.5, stages=4)


def test_the_sizes_of_the_paper_go_by_their_names():
    """Ours and timm's mean the same size; other names mean none."""
    assert architectures.parse("efficientnet@b3") == SIZES["b3"]
    small = architectures.parse("efficientnet@b3,small")
    assert isinstance(small, ScaledEfficientNet)
    assert (small.small, small.width, small.depth) == (True, 1.2, 1.4)
    for name in ("efficientnet_b3", "tf_efficientnet_b3", "tf_efficientnet_b3.ns_jft_in1k", "efficientnet@b3"):
        assert architectures.scaled(name) == SIZES["b3"], name
    for name in ("efficientnet", "resnet50", "efficientnetv2_s", "efficientnet_b3x"):
        assert architectures.scaled(name) is None, name
    assert architectures.parse("resnet50") is None


@pytest.mark.parametrize(
    ("phi", "width", "depth", "size", "dropout"),
    [(0, 1.0, 1.0, 224, 0.2), (1, 1.1, 1.2, 258, 0.25), (6, 1.772, 2.986, 518, 0.5), (-2, 0.826, 0.694, 169, 0.2)],
)
def test_compound_scaling_follows_its_three_bases(phi, width, depth, size, dropout):
    """Depth 1.2^φ, width 1.1^φ, resolution 1.15^φ: φ = 6 is 518 px, where the published B7 has 600."""
    net = architectures.parse(f"efficientnet@phi={phi}")

    assert isinstance(net, ScaledEfficientNet)
    assert (round(net.width, 3), round(net.depth, 3), net.size, net.dropout) == (width, depth, size, dropout)


def test_small_models_are_trained_longer_and_with_less_noise():
    """700 passes up to B4 and 350 above (section 3.1); RandAugment from B2 on (official scripts)."""
    assert [(SIZES[name].epochs, SIZES[name].magnitude) for name in ("b0", "b1", "b2", "b4", "b5", "b7", "l2")] == [
        (700, 0), (700, 0), (700, 6), (700, 15), (350, 18), (350, 27), (350, 27)
    ]  # fmt: skip


@pytest.mark.parametrize(("size", "larger"), [(16, 22), (32, 42), (64, 88), (96, 128), (600, 800)])
def test_fixres_is_about_a_third_larger(size, larger):
    """Also where pictures are small."""
    assert architectures.enlarged(size) == larger


def test_fixres_has_the_papers_resolution_or_a_third_more():
    """475 → 800 px for L2 (section 3.1)."""
    assert [SIZES[name].fixres_size for name in ("b0", "l0", "l2")] == [296, 600, 800]


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
        "efficientnet@width=nan",
        "efficientnet@b9",
        "efficientnet@b0,large",
        "efficientnet@b0,small,small",
        "efficientnet@b0,width=2",
        "efficientnet@phi=",
        "efficientnet@phi=99",
        "efficientnet@phi=nan",
        "efficientnet@phi=1,depth=2",
    ],
)
def test_what_means_nothing_is_refused(student):
    """A parse error is the request's fault, and names the student."""
    with pytest.raises(RecipeRefused, match=student.split("@")[1].split(",")[0]):
        architectures.parse(student)
