"""What the page to try an image on draws, as it is computed."""

from dashboard.pages.trying import CLASSES, drawn
from understudy.records import ClassProbability, Prediction


def said(*labels: str) -> Prediction:
    """An answer whose first class is the most probable."""
    classes = tuple(ClassProbability(label=label, probability=0.5 / (i + 1)) for i, label in enumerate(labels))
    return Prediction(label=labels[0], probability=0.5, classes=classes)


def test_an_answer_is_drawn_in_the_order_of_the_champions_with_its_own_first_class():
    """So that bars beside each other are of one class; a class that a version does not know is left out."""
    many = [f"c{i}" for i in range(CLASSES + 3)]
    champion = said(*many)
    assert [each.label for each in drawn(champion, champion)] == many[:CLASSES]
    other = said("c9", *(name for name in many if name not in ("c9", "c0")))
    assert [each.label for each in drawn(other, champion)] == [*many[1 : CLASSES - 1], "c9"]
