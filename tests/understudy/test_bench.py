"""``understudy bench engine``: real engines of a tiny model for what it prints, given times for what it chooses."""

import hashlib
import json

import onnx
import pytest
from typer.testing import CliRunner

from understudy import bench, engine, registry
from understudy.bench import Measurement
from understudy.catalog import versions
from understudy.cli import commands
from understudy.errors import ArtifactRefused, NoChampion, NotFound
from understudy.records import Variant
from understudy.testing import tiny_artifact
from understudy.tuning import Tuning

CLASSES = ("red", "green", "blue")


def run(*words: object) -> str:
    """What the command prints, within this process."""
    done = CliRunner().invoke(
        commands.app,
        ["bench", "engine", *map(str, words), "--provider", "cpu", "--max-batch", "2", "--seconds", "0"],
        env={"COLUMNS": "200", "TERM": "dumb"},
    )
    if done.exception is not None:
        raise done.exception
    return done.output


@pytest.fixture
def published(local_store, sqlite_catalog):
    """A champion with an int8 variant and an fp16 one, in the data folder that is the test's own."""
    artifact, card = tiny_artifact(CLASSES)
    graph = onnx.load_from_string(artifact)
    graph.doc_string = "as if in other numbers"
    other = graph.SerializeToString()
    int8 = Variant(
        name="int8",
        provider="cpu",
        artifact_key=f"models/{card.version}/model.int8.onnx",
        artifact_sha256=hashlib.sha256(other).hexdigest(),
        artifact_bytes=len(other),
        probe=card.probe,
        tolerance=0.005,
    )
    fp16 = Variant(name="fp16", provider="cuda", tolerance=0.005, reason="cannot be made")
    card = card.model_copy(update={"variants": (int8, fp16)})
    registry.publish(local_store, sqlite_catalog, card, artifact, b"weights", {"int8": other})
    with sqlite_catalog.write() as session:
        versions.promote(session, card.version, instead_of=None, reason="a test", actor="test")
    return card


def test_the_champion_and_its_variants_stand_side_by_side(published, tmp_path):
    """A row for each batch size, then the choice; what is not for this provider is said."""
    printed = run("--data", tmp_path)

    assert published.version in printed
    assert "fp32, " in printed
    assert "int8, " in printed
    assert "The service will choose " in printed
    assert "fp16 is for cuda" in printed


def test_everything_is_json_too(published, tmp_path):
    """For scripts: every layout and batch size, and the choice."""
    printed = json.loads(run("--data", tmp_path, "--model", published.version, "--json"))

    assert {m["name"] for m in printed["measured"]} == {"fp32", "int8"}
    assert [batch["images"] for batch in printed["measured"][0]["batches"]] == [1, 2]
    assert printed["choice"]["name"] in {"fp32", "int8"}
    assert printed["choice"]["provider"] == "cpu"
    assert printed["cores"] == engine.available_cores()


def test_a_file_needs_no_card(tmp_path):
    """The graph says its input and its classes; with its card beside it, it is also proved."""
    artifact, card = tiny_artifact(CLASSES)
    file = tmp_path / "some-model.onnx"
    file.write_bytes(artifact)
    assert "some-model on cpu" in run("--artifact", file)

    (tmp_path / "card.json").write_bytes(card.to_json())
    assert f"{card.version} on cpu" in run("--artifact", file, "--threads", 1)

    (tmp_path / "card.json").write_bytes(b"{}")
    with pytest.raises(ArtifactRefused, match="no model card"):
        run("--artifact", file)


def test_two_files_are_compared(tmp_path):
    """Each under its own name."""
    for name, sharpness in (("one", 5.0), ("two", 6.0)):
        (tmp_path / f"{name}.onnx").write_bytes(tiny_artifact(CLASSES, sharpness=sharpness)[0])

    printed = run("--artifact", tmp_path / "one.onnx", "--artifact", tmp_path / "two.onnx")

    assert "one, " in printed
    assert "two, " in printed


def test_what_cannot_be_measured_says_what_to_do(tmp_path, sqlite_catalog):
    """No data folder, no champion in it, no model in the file."""
    with pytest.raises(NotFound, match="--artifact"):
        run("--data", tmp_path / "nowhere")
    with pytest.raises(NoChampion):
        run("--data", tmp_path)
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"not a model")
    with pytest.raises(ArtifactRefused, match="broken cannot be loaded"):
        run("--artifact", file)


def measured(name: str, layout: tuple[int, int], seconds: dict[int, float], *, max_batch: int = 1) -> Measurement:
    """A measurement with given times."""
    return Measurement(name, "cpu", None, Tuning(*layout, max_batch, seconds))


def test_the_choice_is_the_services():
    """The fastest number format in the service's layout; another layout is only shown."""
    lanes, one = (2, 1), (1, 2)
    everything = [
        measured("fp32", lanes, {1: 0.012, 4: 0.048}),
        measured("fp32", one, {1: 0.008, 4: 0.030}),
        measured("int8", lanes, {1: 0.008, 4: 0.030}),
        measured("int8", one, {1: 0.001, 4: 0.004}),
    ]

    choice = bench.choose(everything, lanes, ["fp16 is for cuda"], (8.0, 5.0))

    assert (choice.name, choice.num_lanes, choice.threads, choice.max_batch) == ("int8", 2, 1, 1)
    assert choice.images_per_second == pytest.approx(250)
    assert choice.reasons == (
        "fp32 does 167 images/s in batches of 4, int8 267",
        "a lone image takes 8.0 ms in a lane and 5.0 ms on all cores: it gets a session of its own",
        "fp16 is for cuda",
    )
    assert bench.sentence(choice).startswith("The service will choose int8 on cpu: 2 lanes of 1 thread, batches of")


def test_a_slower_number_format_is_not_chosen():
    """int8 loses on many processors; the reason shows by how much. A second session must be worth it too."""
    everything = [measured("fp32", (2, 1), {1: 0.012, 4: 0.048}), measured("int8", (2, 1), {1: 0.020, 4: 0.080})]

    choice = bench.choose(everything, (2, 1), [], (8.0, 7.9))

    assert choice.name == "fp32"
    assert choice.reasons == (
        "fp32 does 167 images/s in batches of 4, int8 100",
        "a lone image takes 8.0 ms in a lane and 7.9 ms on all cores: not worth a session of its own",
    )
