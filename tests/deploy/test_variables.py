"""The compose files, as far as an engine would find out only when a page is asked for."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("docker-compose*.yml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.name))
def test_no_default_is_a_variable(file: Path):
    """Compose before 2 takes ``${A:-${B:-c}}`` to the letter."""
    assert re.findall(r"\$\{[^}]*\$\{.*", file.read_text("utf-8")) == []


def test_every_variable_of_the_files_is_in_the_example():
    """Set there, or shown as one that may be."""
    shown = set(re.findall(r"^(?:# )?([A-Z0-9_]+)=", (ROOT / ".env.example").read_text("utf-8"), re.MULTILINE))
    used = {name for file in FILES for name in re.findall(r"\$\{([A-Z0-9_]+)", file.read_text("utf-8"))}
    assert used <= shown, used - shown
