import io
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch.nn import functional

from trainer import model, train, weights
from understudy import recipes
from understudy.errors import RecipeRefused

CLASSES = ("ant", "bee", "cat", "dog")


def build(student, num_classes=len(CLASSES)):
    return model.build(student, num_classes, dropout=0.2, drop_path_rate=0.1)


def file_of(net):
    return save({name: tensor.contiguous() for name, tensor in net.state_dict().items()})


# -- an uploaded file -------------------------------------------------------------------------------


def test_uploaded_weights_are_a_start_even_with_other_classes():
    """A classifier of another shape is left fresh; everything else is taken."""
    source, student = build("efficientnet", 10), build("efficientnet", 4)

    fresh = weights.start_from(student, file_of(source))

    assert fresh == ["classifier.weight", "classifier.bias"]
    assert torch.equal(student.conv_stem.weight, source.conv_stem.weight)
    assert weights.start_from(build("efficientnet", 10), file_of(source)) == []


def test_timms_own_file_is_taken_as_it_is():
    """1,000 classes, half precision, no counters of batches, under timm's own names."""
    source = build("efficientnet_b0", 1000)
    file = save({n: t.half() for n, t in source.state_dict().items() if not n.endswith("num_batches_tracked")})
    student = build("efficientnet@b0")

    assert weights.start_from(student, file) == ["classifier.weight", "classifier.bias"]
    assert torch.equal(student.conv_head.weight, source.conv_head.weight.half().float())


def test_weights_of_another_architecture_are_refused_by_name():
    """The first tensors that do not fit are named, with both shapes."""
    with pytest.raises(RecipeRefused, match=r"blocks.*is \(\d+.* in the file and \(\d+.* here"):
        weights.start_from(build("efficientnet@width=1.5"), file_of(build("efficientnet")))
    with pytest.raises(RecipeRefused, match="another architecture"):
        weights.start_from(build("efficientnet"), file_of(build("efficientnet@width=1.5", 10)))


@pytest.mark.parametrize("cut", [7, 100, -1000])
def test_a_part_of_a_file_is_refused(cut):
    """An upload that broke off."""
    with pytest.raises(RecipeRefused, match="only a part of one"):
        weights.start_from(build("efficientnet"), file_of(build("efficientnet"))[:cut])


def test_a_pickle_is_refused_and_never_opened():
    """It would run its author's code."""
    ran = []

    class Trap:
        def __reduce__(self):
            return (ran.append, (1,))

    saved = io.BytesIO()
    torch.save(build("efficientnet").state_dict(), saved)
    for bad in (saved.getvalue(), *(pickle.dumps(Trap(), protocol) for protocol in (2, 3, 4, 5))):
        with pytest.raises(RecipeRefused, match=r"pickle.*save_file"):
            weights.start_from(build("efficientnet"), bad)
    assert not ran


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "state_dict."])
def test_the_names_of_a_wrapper_are_told(prefix):
    """With what to do."""
    wrapped = save({prefix + name: tensor for name, tensor in build("efficientnet").state_dict().items()})

    with pytest.raises(RecipeRefused, match=f"begin with '{prefix}'.*removeprefix"):
        weights.start_from(build("efficientnet"), wrapped)


def test_numbers_that_are_not_finite_are_refused():
    """They would be found at the first step, after hours of labeling."""
    tensors = {name: tensor.clone() for name, tensor in build("efficientnet").state_dict().items()}
    tensors["bn1.weight"][0] = float("nan")

    with pytest.raises(RecipeRefused, match=r"bn1\.weight"):
        weights.start_from(build("efficientnet"), save(tensors))


# -- grown from the teacher -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem():
    """Colours to tell apart: 48 pictures (N, 3, 16, 16) and their classes."""
    generator = np.random.default_rng(0)
    targets = torch.arange(48) % len(CLASSES)
    pixels = generator.normal(0, 0.3, (48, 3, 16, 16)).astype(np.float32)
    pixels[:, 0] += targets.numpy()[:, None, None] % 2
    pixels[:, 1] += targets.numpy()[:, None, None] // 2
    return torch.from_numpy(pixels), targets


@pytest.fixture(scope="module")
def teacher(problem):
    """A small teacher that has learned something."""
    pixels, targets = problem
    with train.seeded(0):
        net = model.build("efficientnet", len(CLASSES), dropout=0.0, drop_path_rate=0.0)
        optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
        for _ in range(20):
            optimizer.zero_grad()
            functional.cross_entropy(net(pixels), targets).backward()
            optimizer.step()
        with torch.no_grad():
            for _ in range(20):  # statistics of its last weights
                net(pixels)
    return net.eval()


def grown(student, teacher, classes=CLASSES):
    net = build(student, len(classes))
    fresh = weights.grow(net, file_of(teacher), classes=classes, teacher_classes=CLASSES, teacher="g0000-ab")
    return net.eval(), fresh


@torch.inference_mode()
def loss(net, problem):
    pixels, targets = problem
    return float(functional.cross_entropy(net(pixels), targets))


@torch.inference_mode()
def test_an_equal_student_answers_exactly_as_its_teacher(teacher, problem):
    """Same names, same shapes: the same numbers."""
    student, fresh = grown("efficientnet", teacher)

    assert torch.equal(student(problem[0]), teacher(problem[0]))
    assert fresh == []


@pytest.mark.parametrize("student", ["efficientnet@depth=2", "efficientnet@width=1.5", "efficientnet@width=2,depth=3"])
def test_a_larger_student_begins_where_its_teacher_is(student, teacher, problem):
    """Its new blocks are the identity and its new channels unheard, where a fresh one knows nothing."""
    net, _ = grown(student, teacher)

    with torch.inference_mode():
        assert torch.allclose(net(problem[0]), teacher(problem[0]), atol=1e-4)
    assert loss(net, problem) < 0.7 * loss(build(student).eval(), problem)


def test_what_is_new_learns(teacher, problem):
    """Zeros are a beginning, not an end: after some steps new blocks and channels take part."""
    torch.manual_seed(0)  # which blocks stochastic depth drops
    net, _ = grown("efficientnet@width=1.5,depth=2", teacher)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    net.train()
    for _ in range(8):
        optimizer.zero_grad()
        functional.cross_entropy(net(problem[0]), problem[1]).backward()
        optimizer.step()

    num_features = teacher.classifier.weight.shape[1]
    assert (net.classifier.weight[:, num_features:] != 0).any()
    unchanged = [n for n, p in net.named_parameters() if p.ndim > 1 and torch.equal(p, before[n])]
    assert not unchanged


@torch.inference_mode()
def test_classes_that_the_teacher_lacks_have_fresh_rows(teacher, problem):
    """Rows follow their names, wherever the new class stands."""
    classes = ("ant", "axolotl", "bee", "cat", "dog")
    student, fresh = grown("efficientnet", teacher, classes)

    assert fresh == ["axolotl"]
    assert torch.allclose(student(problem[0])[:, [0, 2, 3, 4]], teacher(problem[0]), atol=1e-5)


@pytest.mark.parametrize(
    "student",
    ["resnet10t", "efficientnet@width=0.5", "efficientnet@stages=4", "efficientnet@stages=2", "efficientnet@b0"],
)
def test_another_family_cannot_grow(student, teacher):
    """Nor a smaller student, nor one with other stages or kernels: the teacher is named, and what to do."""
    with pytest.raises(RecipeRefused, match=r"g0000-ab.*start to scratch"):
        grown(student, teacher)


def test_another_architecture_must_stay_the_same():
    """Growing a ResNet would need its own rules; its own weights it can take."""
    source = build("resnet10t")
    student, _ = grown("resnet10t", source)
    assert torch.equal(student.fc.weight, source.fc.weight)
    with pytest.raises(RecipeRefused, match="another family or larger"):
        grown("resnet14t", source)


def test_a_grown_student_is_trained_by_the_recipe_that_asks_for_it():
    """``start`` is a field like any other."""
    assert recipes.recipe("small", {"start": "teacher"}).start == "teacher"
