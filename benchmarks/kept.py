"""Figures of a run as JSON beside its report: to go on with a run that was broken off, or to write the report anew."""

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

R = TypeVar("R")


def write(results: object, path: Path) -> None:
    """A dataclass of dataclasses, for ``read``."""
    path.write_bytes(TypeAdapter(type(results)).dump_json(results, indent=1))


def read(kind: type[R], path: Path) -> R:
    """What was measured before."""
    return TypeAdapter(kind).validate_json(path.read_bytes())
