"""The command on a small world: what it measures, prints, writes, and how it fails."""

import json

import pytest
import typer
from typer.testing import CliRunner

from trainer.robustness import __main__ as command
from understudy import images, registry
from understudy.errors import NotFound
from understudy.testing import picture, tiny_artifact

app = typer.Typer()
app.command()(command.show)


@pytest.fixture
def world(make_taught_world):
    """A champion that was trained, and a challenger of colours that knows half of the digits."""
    world = make_taught_world()
    world.artifact, world.card = tiny_artifact(tuple("01234"), generation=1)
    registry.publish(world.store, world.catalog, world.card, world.artifact, b"no weights")
    return world


def run(world, *words):
    return CliRunner().invoke(app, ["--data", str(world.folder), *words], catch_exceptions=False)


def test_a_version_against_the_first_champion(world, tmp_path):
    """Everything at once: tables, sentences, the report and its picture."""
    (tmp_path / "hard" / "3").mkdir(parents=True)
    (tmp_path / "hard" / "3" / "x.png").write_bytes(picture(3, 5))
    first = registry.champion(world.catalog)

    told = run(
        world, world.card.version, "--images", "3", "--films", "1", "--folder", str(tmp_path / "hard"),
        "--out", str(tmp_path / "out"),
    )  # fmt: skip

    assert told.exit_code == 0
    assert "gaussian_noise" in told.stdout
    assert f"against {first} (100 is as good; lower is better)" in told.stdout
    assert "hard examples: 100.0% of 1 right" in told.stdout
    report = json.loads((tmp_path / "out" / "robustness.json").read_bytes())
    assert report["reference"]["version"] == first
    assert report["robustness"]["sample"] == report["reference"]["sample"]
    assert report["mce"] > 0
    assert len(report["flips"]) == len(report["reference_flips"]) == 10
    assert images.decode((tmp_path / "out" / "robustness.png").read_bytes()).shape[2] == 3


def test_the_champion_is_measured_when_none_is_named(world):
    """It is the first teacher here, so there is nothing to relate it to; --json prints the report alone."""
    told = run(world, "--images", "2", "--attack", "--json")

    report = json.loads(told.stdout)
    assert report["version"] == registry.champion(world.catalog)
    assert (report["reference"], report["mce"], report["flips"]) == (None, None, {})
    assert set(report["attacked"]) == {"0", "2", "4", "8", "16"}


def test_a_folder_that_is_no_data_folder(tmp_path):
    """It is named, and nothing is made there."""
    with pytest.raises(NotFound, match="no data folder"):
        CliRunner().invoke(app, ["--data", str(tmp_path / "nowhere")], catch_exceptions=False)
    assert not (tmp_path / "nowhere").exists()


def test_a_version_that_there_is_none_of(world):
    """It is named."""
    with pytest.raises(NotFound, match="g0009-abcdef"):
        run(world, "g0009-abcdef")
