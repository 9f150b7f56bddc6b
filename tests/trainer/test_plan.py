"""Where a generation begins: what its request may name, on real worlds."""

import hashlib
import threading

import pytest
import torch
from safetensors.torch import load, save

from trainer import generation, model, plan
from trainer.plan import make_plan
from trainer.progress import Progress
from understudy.catalog import generations, versions
from understudy.errors import RecipeRefused
from understudy.store import weights_key


def run(world, turn, claim):
    return generation.run(world.place, claim, Progress(world.catalog, claim, threading.Event()), turn)


def made(world, number):
    return versions.get(world.catalog, generations.get(world.catalog, number).version).card


def send(world, tensors):
    """Weights as ``POST /weights`` stores them."""
    file = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    sha256 = hashlib.sha256(file).hexdigest()
    world.store.put(weights_key(sha256), file)
    return sha256


def planned(world, **request):
    turn, _ = world.open(**request)
    return make_plan(world.catalog, world.store, turn)


def test_fixres_is_a_last_stage_on_labeled_images_alone(make_taught_world):
    """No label set is waited for, nothing is selected; the frozen part stays the teacher's, and the card says so."""
    world = make_taught_world()
    champion = versions.get(world.catalog, versions.champion(world.catalog).version).card
    fields = {"student_steps": 8, "teacher_steps": 8, "labeled_batch": 16, "variants": []}
    turn, claim = world.open(recipe="fixres", overrides=fields)

    run(world, turn, claim)

    card = made(world, 1)
    lineage = {key: card.data[key] for key in ("pseudo_labels", "start", "num_pseudo", "num_label_sets", "selection")}
    assert lineage == {
        "pseudo_labels": "none", "start": "teacher", "num_pseudo": 0, "num_label_sets": 0, "selection": None
    }  # fmt: skip
    assert (card.teacher, card.student) == (champion.version, champion.student)
    assert (champion.preprocessing.size, card.preprocessing.size) == (16, 22)
    assert card.preprocessing.mean == champion.preprocessing.mean
    before, after = (load(world.store.get(c.weights_key)) for c in (champion, card))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert {"blocks", "conv_head", "bn2", "classifier"} == changed
    frozen = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.0.")
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith(frozen))
    with pytest.raises(RecipeRefused, match="last stage"):
        planned(world)


def test_a_student_may_grow_from_its_teacher(make_taught_world):
    """Deeper, and with the teacher's weights, checked when the plan is made; another family is refused then."""
    world = make_taught_world()
    overrides = {"start": "teacher", "threshold": 0.6}

    turn, _ = world.open(student="efficientnet@depth=2", overrides=overrides)
    frozen = make_plan(world.catalog, world.store, turn)

    champion = versions.get(world.catalog, frozen.teacher).card
    student = plan.fresh_student(frozen.student, len(frozen.classes), frozen.recipe)
    plan.begin(student, frozen, world.store, champion)
    assert torch.equal(student.conv_stem.weight, load(world.store.get(champion.weights_key))["conv_stem.weight"])
    for bad in ({"student": "resnet10t"}, {"student": "efficientnet@stages=4"}):
        request = turn.request.model_copy(update=bad)
        with pytest.raises(RecipeRefused, match="another family"):
            make_plan(world.catalog, world.store, turn.model_copy(update={"request": request}))


def test_a_teachers_weights_that_are_damaged_are_told_of(make_taught_world):
    """By the checksum on its card."""
    world = make_taught_world()
    champion = versions.get(world.catalog, versions.champion(world.catalog).version).card
    tensors = load(world.store.get(champion.weights_key))
    tensors["bn1.bias"] += 1
    world.store.replace(champion.weights_key, save(tensors))

    with pytest.raises(RecipeRefused, match=f"{champion.version}.*damaged"):
        planned(world, overrides={"start": "teacher"})


def test_pretrained_weights_are_the_start(make_world):
    """An uploaded file whose classes are others: all but the classifier is taken, and the plan names it."""
    world = make_world(num_unlabeled=20, num_holdout=40)
    source = model.build("efficientnet", 1000, dropout=0.0, drop_path_rate=0.0)
    sent = send(world, source.state_dict())

    frozen = planned(world, recipe="tiny", overrides={"start": "pretrained"}, weights=sent)

    student = plan.fresh_student(frozen.student, len(frozen.classes), frozen.recipe)
    plan.begin(student, frozen, world.store, None)
    assert frozen.weights == sent
    assert torch.equal(student.conv_head.weight, source.conv_head.weight)


def test_weights_that_do_not_fit_are_refused_with_the_plan(make_world):
    """Before anything is waited for or trained: another architecture, half a file, a pickle."""
    world = make_world(num_unlabeled=20, num_holdout=40)
    wide = model.build("efficientnet@width=1.5", 10, dropout=0.0, drop_path_rate=0.0).state_dict()
    half = world.store.get(weights_key(send(world, wide)))[:5000]
    turn, _ = world.open(recipe="tiny", overrides=world.quick)

    for sha256, file, says in (
        (send(world, wide), None, "another architecture"),
        ("1" * 64, half, "only a part of one"),
        ("2" * 64, b"PK\x03\x04 and so on", "pickle"),
    ):
        if file is not None:
            world.store.put(weights_key(sha256), file)
        asked = turn.request.model_copy(update={"weights": sha256})
        with pytest.raises(RecipeRefused, match=says):
            make_plan(world.catalog, world.store, turn.model_copy(update={"request": asked}))


def test_a_smaller_student_is_let_through_with_a_warning(make_taught_world, caplog):
    """Where the recipe allows it: distillation."""
    world = make_taught_world()

    frozen = planned(world, student="efficientnet@width=0.5", overrides={"allow_smaller": True})

    assert frozen.student == "efficientnet@width=0.5"
    assert "distils the teacher" in caplog.text


def test_the_paper_is_counted_in_passes_over_this_labeled_set(make_taught_world):
    """60 labels at 16 a step: 700 passes of a B0 are 2,625 steps."""
    world = make_taught_world()
    fields = {"labeled_batch": 16, "size": 32, "allow_smaller": True}

    frozen = planned(world, recipe="paper", student="efficientnet@phi=-5,small", overrides=fields)

    assert frozen.recipe.student_steps == 2625
    assert (frozen.recipe.batch_norm_momentum, frozen.recipe.optimizer) == (0.01, "rmsprop")
