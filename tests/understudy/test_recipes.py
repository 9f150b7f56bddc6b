import pytest

from understudy import recipes
from understudy.errors import RecipeRefused
from understudy.recipes import Recipe, Teacher, Turn
from understudy.records import Preprocessing

AT_224 = Preprocessing(size=224, crop_fraction=0.9, interpolation="bilinear", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
IMAGENET = 1_281_167


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_valid_and_survives_json(name):
    """A recipe is stored with the model it made, and read back for the next one."""
    recipe = recipes.recipe(name, {}, Turn(1, teacher=Teacher("efficientnet_b0", AT_224)))

    assert recipe.name == name
    assert Recipe.model_validate_json(recipe.to_json()) == recipe


def test_overrides_replace_fields():
    """A request may change single fields, lists from JSON included."""
    recipe = recipes.recipe("tiny", {"teacher_steps": 77, "mean": [0.1, 0.2, 0.3]})

    assert (recipe.teacher_steps, recipe.mean) == (77, (0.1, 0.2, 0.3))
    assert recipe.student_steps == recipes.recipe("tiny", {}).student_steps


def test_the_last_student_repeats():
    """A recipe has students for any number of generations."""
    recipe = recipes.recipe("tiny", {"students": ["a", "b"]})

    assert [recipe.student(generation) for generation in range(4)] == ["a", "b", "b", "b"]


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("huge", {}, "there are tiny, small, finetune, paper, fixres"),
        ("tiny", {"teacher_stepz": 1}, "checkpoint_every"),
        ("tiny", {"name": "mine"}, "another recipe"),
        ("tiny", {"teacher_steps": "many"}, "teacher_steps='many'"),
        ("tiny", {"threshold": 0.3}, "raise threshold to at least 0.6"),
        ("small", {"pseudo_labels": "hard"}, "pseudo_labels to soft"),
        ("tiny", {"drop_path_rate": 0.8}, "set 0.2"),
        ("tiny", {"warmup_steps": 300}, "train longer"),
        ("tiny", {"std": (0.5, 0.0, 0.5)}, "standard deviation"),
        ("tiny", {"augment_magnitude": 27}, "augment_magnitude=27"),
        ("tiny", {"frozen_blocks": 2}, "start to teacher"),
        ("fixres", {}, "there is none yet"),
        ("paper", {"students": ["resnet50"]}, "resnet50"),
        ("paper", {"labeled_batch": "many"}, "labeled_batch='many'"),
        ("paper", {"labeled_batch": 1}, "labeled_batch=1"),
    ],
)
def test_a_recipe_that_contradicts_itself_says_what_to_change(name, overrides, says):
    """No run begins with a recipe that cannot work."""
    with pytest.raises(RecipeRefused, match=says):
        recipes.recipe(name, overrides)


def test_the_recipe_of_an_earlier_card_is_used_again():
    """Even if a field has gone since; what cannot be read is refused."""
    old = recipes.recipe("tiny", {"teacher_steps": 77}).model_dump(mode="json") | {"forgotten": 1}

    assert recipes.again(old, {"student_steps": 88}) == recipes.recipe(
        "tiny", {"teacher_steps": 77, "student_steps": 88}
    )
    with pytest.raises(RecipeRefused, match="name one"):
        recipes.again({}, {})


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_recipe_after_a_last_stage_is_named(name):
    """A second FixRes would look at larger and larger images; every other recipe goes on."""
    before = recipes.recipe(name, {}, Turn(1, teacher=Teacher("efficientnet_b0", AT_224))).model_dump(mode="json")

    if name in recipes.LAST_STAGES:
        with pytest.raises(RecipeRefused, match="last stage"):
            recipes.again(before, {})
    else:
        assert recipes.again(before, {}).name == name


def test_every_field_says_what_it_means():
    """In one place, where the command line and the schema find it: one sentence each."""
    meanings = {name: field.description or "" for name, field in Recipe.model_fields.items()}

    assert not [name for name, meaning in meanings.items() if not meaning.endswith(".") or "\n" in meaning]


# -- paper ------------------------------------------------------------------------------------------


def paper(generation, student=None, overrides=None, num_labeled=IMAGENET):
    return recipes.recipe("paper", overrides or {}, Turn(generation, student, num_labeled))


def test_the_papers_chain_is_a_schedule_of_generations():
    """B7 → L2 → L2 → L2 with 14, 14 and 28 pseudo-labels for each label (table 7)."""
    chain = [paper(generation) for generation in range(5)]

    assert [r.student(g) for g, r in enumerate(chain)] == ["efficientnet@b7"] + ["efficientnet@l2"] * 4
    assert [r.unlabeled_ratio for r in chain] == [3, 14, 14, 28, 28]
    assert [r.size for r in chain] == [600, 475, 475, 475, 475]
    assert {(r.dropout, r.drop_path_rate, r.augment_ops, r.augment_magnitude) for r in chain} == {(0.5, 0.2, 2, 27)}


def test_the_papers_schedule_on_imagenet():
    """350 passes for B7 and 700 for B0, in steps; rate 0.016 for 256 images; 5 passes of warm-up (section 3.1)."""
    b7, b0 = paper(0), paper(1, "efficientnet_b0")
    epoch = IMAGENET / 2048

    assert [r.student_steps for r in (b7, b0)] == [round(350 * epoch), round(700 * epoch)]
    assert [r.decay_steps for r in (b7, b0)] == [round(2.4 * epoch), round(4.8 * epoch)]
    assert (b7.warmup_steps, b7.learning_rate) == (round(5 * epoch), 0.128)
    assert (b7.optimizer, b7.schedule, b7.weight_decay, b7.ema_decay) == ("rmsprop", "staircase", 1e-5, 0.9999)
    assert (b7.batch_norm_momentum, b7.augment_scale, b7.augment_ops, b0.augment_ops) == (0.01, "official", 2, 0)
    assert (b0.size, b0.dropout, b0.unlabeled_ratio) == (224, 0.2, 1)
    assert b0.crop_fraction == 0.875


def test_rate_and_steps_follow_the_batch_that_is_asked_for():
    """The linear rule; also when the next generation is asked the same."""
    asked = paper(0, overrides={"labeled_batch": 256})

    assert (asked.learning_rate, asked.student_steps) == (0.016, round(350 * IMAGENET / 256))
    following = recipes.again(asked.model_dump(mode="json"), {}, Turn(1, num_labeled=IMAGENET))
    assert (following.labeled_batch, following.learning_rate, following.unlabeled_ratio) == (256, 0.016, 14)
    assert paper(0, overrides={"labeled_batch": 256, "learning_rate": 0.5}).learning_rate == 0.5


def test_the_students_that_are_asked_for_bring_their_sizes():
    """Whether they are asked for as a student or as a field."""
    assert paper(1, overrides={"students": ["efficientnet@b0", "efficientnet@b3"]}).size == 300
    assert (paper(1, "efficientnet@b0,small").size, paper(1, "efficientnet@phi=0.5").size) == (32, 240)


@pytest.mark.parametrize(("asked", "ratio"), [({}, 14), ({"unlabeled_ratio": 1}, 1)])
def test_the_papers_weight_of_the_loss_is_its_ratio(asked, ratio):
    """Every pseudo-labeled image counts as much as a labeled one, also where another ratio is asked for."""
    recipe = recipes.recipe("paper", asked, Turn(1))
    assert (recipe.unlabeled_ratio, recipe.pseudo_weight) == (ratio, ratio)


@pytest.mark.parametrize("num_labeled", [0, 1, 30, 5000])
def test_the_paper_on_a_small_set_is_still_a_recipe(num_labeled):
    """Passes become at least one step, and the warm-up leaves some."""
    assert paper(1, num_labeled=num_labeled).student_steps >= 1


# -- fixres and finetune ----------------------------------------------------------------------------


def fixres(student, preprocessing=AT_224, num_labeled=1000, asked=None):
    return recipes.recipe("fixres", {}, Turn(2, asked, num_labeled, teacher=Teacher(student, preprocessing)))


def test_fixres_goes_on_from_the_champion_at_a_higher_resolution():
    """The champion's student and preprocessing but for the size; labels alone, and no noise on the input."""
    recipe = fixres("resnet50")

    assert recipe.student(2) == "resnet50"
    assert recipe.preprocessing == AT_224.model_copy(update={"size": 296})
    assert (recipe.start, recipe.pseudo_labels) == ("teacher", "none")
    assert (recipe.augment_ops, recipe.flip, recipe.erasing_probability, recipe.min_crop_area) == (0, False, 0.0, 1.0)
    assert (recipe.frozen_blocks, fixres("efficientnet_b0").frozen_blocks) == (2, 5)
    assert fixres("efficientnet@l2").frozen_blocks == 28


def test_fixres_has_the_papers_resolution_where_there_is_one():
    """475 → 800 for L2; an L2 of another size grows by a third."""
    assert fixres("efficientnet@l2", AT_224.model_copy(update={"size": 475})).size == 800
    assert fixres("efficientnet@l2", AT_224.model_copy(update={"size": 96})).size == 128


def test_fixres_is_one_and_a_half_passes_and_more_on_small_sets():
    """1.5 epochs (section 3.1)."""
    assert [fixres("resnet50", num_labeled=n).student_steps for n in (30, 128_000)] == [100, 6000]


def test_finetune_is_short_and_has_the_students_resolution():
    """Twenty passes, neither too few nor too many steps."""
    found = [recipes.recipe("finetune", {}, Turn(num_labeled=n)) for n in (100, 3200, 10**7)]

    assert [r.student_steps for r in found] == [200, 2000, 10_000]
    assert {(r.start, r.student(0), r.size) for r in found} == {("pretrained", "efficientnet_b0", 224)}
    assert recipes.recipe("finetune", {}, Turn(student="tf_efficientnet_b2")).size == 260
    assert recipes.recipe("finetune", {}, Turn(student="convnext_tiny")).size == 224
