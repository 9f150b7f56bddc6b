import numpy as np
import pytest

from trainer.robustness import hard_examples
from understudy.errors import LabeledSetRefused, NotFound
from understudy.testing import picture


def nothing(done, total):
    pass


@pytest.fixture
def folder(tmp_path):
    """Two of a model's three classes, one of none, and files that are no images."""
    for i, name in enumerate(("amber", "blue")):
        (tmp_path / "hard" / name / "deeper").mkdir(parents=True)
        for seed in range(2):
            (tmp_path / "hard" / name / "deeper" / f"{seed}.png").write_bytes(picture(i, 3, seed=seed))
    (tmp_path / "hard" / "zebra").mkdir()
    (tmp_path / "hard" / "zebra" / "0.png").write_bytes(picture(0, 3))
    (tmp_path / "hard" / "amber" / "notes.txt").write_text("not an image")
    return tmp_path / "hard"


def test_a_folder_of_hard_examples(folder, load):
    """What is known and readable counts; the rest is named."""
    found = hard_examples.measure(load(), folder, nothing)

    assert (found.num_images, found.accuracy, found.accuracy_among) == (4, 1.0, 1.0)
    assert found.classes == ("amber", "blue")
    assert found.unknown_classes == ("zebra",)
    assert len(found.unreadable) == 1
    assert found.unreadable[0].startswith("amber/notes.txt: ")


def test_among_the_folders_classes_alone_an_answer_may_be_right(folder, load):
    """A model that calls everything coral, which is not in the folder, calls it blue among those that are."""

    class Coral:
        version, card = load().version, load().card

        def predict(self, pixels):
            return np.tile(np.array([[0.1, 0.3, 0.6]], dtype=np.float32), (len(pixels), 1))

    found = hard_examples.measure(Coral(), folder, nothing)

    assert (found.accuracy, found.accuracy_among) == (0.0, 0.5)


def test_a_folder_without_a_class_of_the_model_is_refused(folder, load):
    """Both sides are named."""
    with pytest.raises(LabeledSetRefused, match=r"amber, blue, zebra, the model's classes are a, b"):
        hard_examples.measure(load(("a", "b")), folder, nothing)


def test_a_folder_that_is_not_there(tmp_path, load):
    """It is named."""
    with pytest.raises(NotFound, match="nowhere"):
        hard_examples.measure(load(), tmp_path / "nowhere", nothing)
