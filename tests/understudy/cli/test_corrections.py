"""``understudy corrections`` and ``tasks`` against the real service: out, and in again as the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from understudy.annotations import reading
from understudy.catalog import Catalog
from understudy.cli.corrections import NOTE
from understudy.client import Client, RequestFailed
from understudy.errors import Conflict, NotFound
from understudy.records import ShardManifest
from understudy.review_records import Decision, Verdict
from understudy.store import Store, manifest_key
from understudy.testing import picture

FILES = {"csv": "labels.csv", "label-studio": "tasks.json", "cvat": "annotations.xml", "folder": ""}


@pytest.fixture
def labeled(opened: tuple[Catalog, Store], teaching: Callable[..., Any]) -> ShardManifest:
    """Four images of a bucket, all called red, the last the least surely."""
    world = teaching(*opened)
    for number, name in enumerate(("red", "green", "blue")):
        world.shard(None, [picture(number, 3, seed=99)], name)
    world.teacher()
    manifest: ShardManifest = world.shard("photos", [picture(c % 3, 3, seed=c) for c in range(4)])
    world.label(manifest, [[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.6, 0.2, 0.2]])
    return manifest


@pytest.fixture
def reviewed(url: str, labeled: ShardManifest) -> list[str]:
    """The first is right, the second green, the third nothing; nobody has looked at the last."""
    shas = [member.sha256 for member in labeled.members]
    with Client(url) as client:
        client.review(
            [
                Decision(sha256=shas[0], verdict=Verdict.ACCEPT),
                Decision(sha256=shas[1], verdict=Verdict.CORRECT, class_name="red"),
                Decision(sha256=shas[2], verdict=Verdict.REJECT),
            ]
        )
        client.review([Decision(sha256=shas[1], verdict=Verdict.CORRECT, class_name="green")])
    return shas


@pytest.mark.parametrize("tool", FILES)
def test_corrections_go_out_and_come_in_again(
    run: Callable[..., Result], reviewed: list[str], tmp_path: Path, tool: str
):
    """The newest word on each image, and its very bytes; killed in between, the same command goes on."""
    to = tmp_path / "out"
    done = run("corrections", "--to", to, "--format", tool)
    assert done.exit_code == 0, done.exception
    assert f"{2 if tool == 'folder' else 3} images as {tool}" in done.stdout
    assert ("1 were rejected" in done.stdout) == (tool == "folder")
    found = reading.read(to / FILES[tool])
    assert {(file.stem, name) for file, name in found.files} == {(reviewed[0], "red"), (reviewed[1], "green")}
    assert {file.read_bytes() for file, _ in found.files} == {picture(0, 3, seed=0), picture(1, 3, seed=1)}
    assert not (to / NOTE).exists()
    again = run("corrections", "--to", to, "--format", tool).exception
    assert isinstance(again, Conflict)
    told = json.loads(run("corrections", "--to", tmp_path / "other", "--format", tool, "--json").stdout)
    assert (told["num_images"], told["num_rejected"]) == ((2, 1) if tool == "folder" else (3, 0))


def test_what_was_broken_off_goes_on_with_what_it_was_begun_with(
    run: Callable[..., Result],
    labeled: ShardManifest,
    reviewed: list[str],
    opened: tuple[Catalog, Store],
    tmp_path: Path,
    url: str,
):
    """A review of the meantime is not in it; what was downloaded stays as it is; another request is refused."""
    to, shard, first = tmp_path / "out", opened[1].get(labeled.key), labeled.members[0]
    opened[1].replace(labeled.key, shard[: first.offset] + b"?" + shard[first.offset + 1 :])
    broken = run("corrections", "--to", to).exception
    assert isinstance(broken, RequestFailed)
    assert broken.code == "damaged_download"
    opened[1].replace(labeled.key, shard)
    with Client(url) as client:
        client.review([Decision(sha256=reviewed[3], verdict=Verdict.CORRECT, class_name="blue")])
    assert isinstance(run("corrections", "--to", to, "--format", "cvat").exception, Conflict)
    kept = {path: path.stat().st_mtime_ns for path in (to / "images").iterdir()}
    assert run("corrections", "--to", to).exit_code == 0
    assert (len(kept), {path: path.stat().st_mtime_ns for path in kept}) == (2, kept)
    assert reading.read(to / "labels.csv").report.classes == {"green": 1, "red": 1}
    assert not (to / NOTE).exists()


def test_images_that_are_gone_are_counted(
    run: Callable[..., Result], labeled: ShardManifest, opened: tuple[Catalog, Store], tmp_path: Path
):
    """Their shard is being deleted; what is left is a whole document."""
    opened[1].delete(labeled.key)
    opened[1].delete(manifest_key(labeled.key))
    done = run("tasks", "--to", tmp_path / "out", "--format", "csv")
    assert done.exit_code == 0, done.exception
    assert "0 images as csv" in done.stdout
    assert "4 are gone" in done.stdout


def test_tasks_are_the_least_sure_first_with_predictions(
    run: Callable[..., Result], labeled: ShardManifest, tmp_path: Path, url: str
):
    """For a labeling tool; without what a person has looked at, so that nothing of it is a label yet."""
    to = tmp_path / "out"
    with Client(url) as client:
        client.review([Decision(sha256=labeled.members[3].sha256, verdict=Verdict.ACCEPT)])
    done = run("tasks", "--to", to, "--limit", 2, "--max-confidence", 0.85)
    assert done.exit_code == 0, done.exception
    assert {path.stem for path in (to / "images").iterdir()} == {m.sha256 for m in labeled.members[1:3]}
    with pytest.raises(Exception, match="2 unlabeled"):
        reading.read(to / "tasks.json", rules=reading.Rules(control="choice"))
    assert run("tasks", "--to", tmp_path / "x", "--format", "folder").exit_code == 2
    nothing = run("tasks", "--to", tmp_path / "x", "--max-confidence", 0.1)
    assert isinstance(nothing.exception, NotFound)
    assert not (tmp_path / "x").exists()
