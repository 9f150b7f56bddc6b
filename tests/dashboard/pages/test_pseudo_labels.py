"""What the pseudo-labels' page makes of its address."""

from types import SimpleNamespace

import pytest

from dashboard.frame import View
from dashboard.pages import pseudo_labels
from understudy.label_records import ClassFacet


def view(**query: str) -> View:
    """The page at an address."""
    return View(SimpleNamespace(), "/pseudo-labels", query=query)


@pytest.mark.parametrize(
    ("said", "is_taken_as"), [("0.5", 0.5), ("0", 0.0), ("1", 0.3), ("-1", 0.3), ("nan", 0.3), ("x", 0.3)]
)
def test_a_threshold_that_is_none_is_the_usual_one(said: str, is_taken_as: float):
    """Rather than a fault."""
    assert pseudo_labels.threshold(view(threshold=said)) == is_taken_as


def test_classes_are_found_by_any_part_of_their_name():
    """Most images first, or in the order of their names."""
    every = [
        ClassFacet(label=name, num_images=number, by_confidence=(0,) * 20)
        for name, number in (("Zebra", 5), ("bear", 9), ("zebu", 7))
    ]
    assert [each.label for each in pseudo_labels.shown(every, view(find="zEB"))] == ["zebu", "Zebra"]
    assert [each.label for each in pseudo_labels.shown(every, view(by="name"))] == ["Zebra", "bear", "zebu"]
    assert pseudo_labels.shown(every, view(find="<")) == []
