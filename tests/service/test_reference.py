"""The REST reference is of this service."""

from pathlib import Path

from service import reference


def test_the_reference_is_of_this_description():
    """docs/rest.md is what `make reference` would write now."""
    written = (Path(__file__).parents[2] / "docs" / "rest.md").read_text(encoding="utf-8")

    assert written == reference.text(), "run `make reference`"
