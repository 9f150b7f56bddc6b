"""The picture of counts: its cells are links, and names are words."""

import pytest

from dashboard import matrix
from dashboard.matrix import Links
from understudy.label_records import ClassFacet

MARKUP = "<img src=x onerror=run()>\"'"
LINKS = Links(
    cell=lambda name, i: f"/?cell={i}&class={len(name)}", row=lambda name: "/?row=1", threshold=lambda at: f"/?at={at}"
)


def facet(label: str, **counts: int) -> ClassFacet:
    """A class with images in some bins: ``b19=3``."""
    bins = [counts.get(f"b{i}", 0) for i in range(20)]
    return ClassFacet(label=label, num_images=sum(bins), by_confidence=tuple(bins))


def test_a_cell_is_a_link_only_where_there_are_images():
    """And says how many; what lies left of the threshold is faint."""
    drawn = matrix.drawn([facet("red", b3=2, b19=1)], 0.5, {"red": 1}, LINKS, "")

    assert drawn.count('class="cell faint"') == 1
    assert drawn.count('class="cell"') == 1
    assert "red, 0.15 to 0.20: 2 images" in drawn
    assert 'href="/?cell=3&amp;class=3"' in drawn


def test_a_name_is_never_markup():
    """Wherever it stands in the picture."""
    drawn = matrix.drawn([facet(MARKUP, b1=1)], 0.3, None, LINKS, MARKUP)

    assert "<img" not in drawn
    assert drawn.count("&lt;img") >= 2
    assert 'aria-current="true"' in drawn


@pytest.mark.parametrize("most", [1, 7, 1_000_000])
def test_more_is_darker(most: int):
    """Nothing is blank, one can be seen, the fullest is full."""
    shades = [matrix.shade(number, most) for number in (0, 1, most)]

    assert shades == sorted(shades)
    assert (shades[0], shades[-1]) == (0.0, pytest.approx(1.0))
    assert shades[1] > 0.1
