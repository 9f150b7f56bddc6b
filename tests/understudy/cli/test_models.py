"""``understudy models``: the list, one model, and a folder of it that runs without Understudy."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import Result

from understudy import registry
from understudy.catalog import Catalog
from understudy.client import Client, RequestFailed
from understudy.errors import Conflict, NotFound, Refused
from understudy.store import Store, model_key
from understudy.testing import picture, tiny_artifact


@pytest.fixture
def run(run: Callable[..., Result]) -> Callable[..., Result]:
    """Run one of the commands that are tested here."""
    return partial(run, "models")


def test_the_models_are_shown_with_what_they_are_worth(run: Callable[..., Result], promote: Callable[..., str]):
    """In a table, each by itself, and for programs."""
    first, champion = promote(), promote(sharpness=20.0)
    lines = [" ".join(line.replace("│", " ").split()) for line in run().stdout.splitlines()]
    assert f"{champion} 0 champion tiny 90.0% (82.5% to 94.5%)" in lines
    assert f"{first} 0 promoted tiny 90.0% (82.5% to 94.5%)" in lines
    assert {model["id"] for model in json.loads(run("--json").stdout)} == {first, champion}
    shown = run("show", "champion").stdout
    assert shown.startswith(f"{champion}: champion, generation 0, tiny, 12 parameters\n")
    assert "3 classes: red, green, blue" in shown
    assert json.loads(run("show", first, "--json").stdout)["id"] == first
    assert isinstance(run("show", "g0009-000000").exception, RequestFailed)


def test_an_exported_folder_says_what_the_service_says(
    run: Callable[..., Result], serving: Callable[..., str], url: str, tmp_path: Path
):
    """Its own program, by another Python, with nothing of Understudy; running the command again changes nothing."""
    version, to, image = serving(), tmp_path / "model", tmp_path / "image.png"
    image.write_bytes(picture(2, 3, size=11))
    assert f"{version} as onnx in" in run("export", version, "--to", to).stdout
    assert json.loads(run("export", "champion", "--to", to, "--json").stdout)["version"] == version
    assert {path.name for path in to.iterdir()} == {"model.onnx", "card.json", "run.py", "README.md"}
    ran = subprocess.run([sys.executable, "-I", to / "run.py", image], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    told = [(name, float(number)) for number, name in (line.split(" ", 1) for line in ran.stdout.splitlines())]
    with Client(url) as client:
        said = client.classify(image, top_k=3).predictions[0].classes
    assert [name for name, _ in told] == [each.label for each in said]
    assert [number for _, number in told] == pytest.approx([each.probability for each in said], abs=1e-4)


def test_a_folder_of_anything_else_is_left_as_it_is(
    run: Callable[..., Result], promote: Callable[..., str], opened: tuple[Catalog, Store], tmp_path: Path
):
    """Files of one's own, another model; a download that was broken off goes on, one that is damaged is not kept."""
    first, second, to = promote(), promote(sharpness=20.0), tmp_path / "model"
    to.mkdir()
    (to / ".model.onnx.part").write_bytes(opened[1].get(model_key(first, "model.onnx"))[:100])
    assert run("export", first, "--to", to).exit_code == 0
    assert (to / "model.onnx").read_bytes() == opened[1].get(model_key(first, "model.onnx"))
    other = run("export", second, "--to", to).exception
    assert isinstance(other, Conflict)
    assert str(other) == f"{to} is of model {first}, not of {second}; choose another folder"
    (to / "mine.txt").touch()
    assert isinstance(run("export", first, "--to", to).exception, Conflict)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".model.onnx.part").write_bytes(b"x" * 100)
    damaged = run("export", first, "--to", tmp_path / "new").exception
    assert isinstance(damaged, RequestFailed)
    assert damaged.code == "damaged_download"
    assert run("export", first, "--to", tmp_path / "new").exit_code == 0


def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    run: Callable[..., Result], opened: tuple[Catalog, Store], tmp_path: Path
):
    """A student that is no timm's, a file that the store has lost."""
    artifact, card = tiny_artifact(("red", "green"))
    registry.publish(opened[1], opened[0], card.model_copy(update={"student": "efficientnet@b0,small"}), artifact, b"")
    version, to = card.version, tmp_path / "model"
    assert isinstance(run("export", version, "--to", to, "--format", "timm").exception, Refused)
    opened[1].delete(model_key(version, "weights.safetensors"))
    lost = run("export", version, "--to", to, "--format", "safetensors").exception
    assert isinstance(lost, NotFound)
    assert not to.exists()
