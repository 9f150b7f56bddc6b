"""A folder of files that bear the names of images, and reading what was said of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.annotations import reading
from understudy.annotations.reading import Format, LabeledFiles, Rules


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """Makes files of these names below a folder; nobody opens them here."""

    def made(*names: str, folder: str = "") -> Path:
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        return tmp_path / folder

    return made


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., LabeledFiles]:
    """Writes annotations under a name and reads them."""

    def done(
        name: str, content: str | bytes, *, images: Path | None = None, format: Format = Format.AUTO, **rules: Any
    ) -> LabeledFiles:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return reading.read(path, format, images=images, rules=Rules(**rules))

    return done


@pytest.fixture
def pairs(tmp_path: Path) -> Callable[[LabeledFiles], list[tuple[str, str]]]:
    """The files, as the folder calls them, and their classes."""
    return lambda found: [(file.relative_to(tmp_path).as_posix(), name) for file, name in found.files]


@pytest.fixture
def reasons() -> Callable[[LabeledFiles], list[tuple[str, str]]]:
    """What was left out and why."""
    return lambda found: [(one.image, one.reason.value) for one in found.report.left_out]
