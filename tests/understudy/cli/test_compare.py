"""``understudy compare`` against a real service."""

import json
from collections.abc import Callable
from functools import partial

import pytest
from typer.testing import Result

from understudy import registry
from understudy.catalog import Catalog
from understudy.records import ShardManifest, ShardMember
from understudy.store import Store, manifest_key
from understudy.testing import tiny_artifact

#: Brackets are markup to the library that prints.
CLASSES = ("[red]", "green")
HOLDOUT = "holdout/a.tar"


@pytest.fixture
def run(run: Callable[..., Result]) -> Callable[..., Result]:
    """Run one of the commands that are tested here."""
    return partial(run, "compare")


@pytest.fixture
def pair(opened: tuple[Catalog, Store]) -> tuple[str, str]:
    """Two versions that answered for three images: the challenger is right on one that the champion is not."""
    catalog, store = opened
    members = tuple(
        ShardMember(
            sha256=f"{i:064x}", name="a.png", offset=0, num_bytes=1, width=1, height=1, format="PNG", class_name="[red]"
        )
        for i in range(3)
    )
    manifest = ShardManifest(key=HOLDOUT, sha256="1" * 64, num_bytes=1, split="holdout", bucket=None, members=members)
    store.put(manifest_key(HOLDOUT), manifest.to_json())
    names = []
    for generation, predicted in ((1, [0, 0, 1]), (0, [1, 0, 1])):
        artifact, card = tiny_artifact(CLASSES, generation=generation)
        registry.publish(store, catalog, card, artifact, b"")
        answers = {
            "holdout": [HOLDOUT], "classes": ["[red]"], "truth": [0] * 3, "predicted": predicted,
            "model_classes": CLASSES,
        }  # fmt: skip
        store.put(f"generations/0001/evaluation-{card.version}-0.json", json.dumps(answers).encode())
        names.append(card.version)
    return names[0], names[1]


def test_the_counts_are_a_square_and_what_changed_a_table(run: Callable[..., Result], pair: tuple[str, str]):
    """Names are shown as they are; ``--json`` is what the service answers."""
    shown = run(*pair)
    assert shown.exit_code == 0
    rows = [line.split("│")[1:-1] for line in shown.stdout.splitlines() if "│" in line]
    assert [[word.strip() for word in row] for row in rows] == [
        ["challenger right", "1", "1"],
        ["challenger wrong", "0", "1"],
        ["[red]", "green", "2", "1"],
    ]
    assert json.loads(run(*pair, "--json").stdout)["won"] == 1


def test_the_images_of_an_outcome_are_listed(run: Callable[..., Result], pair: tuple[str, str]):
    """Each with both answers."""
    (won,) = json.loads(run(*pair, "--only", "won", "--json").stdout)
    assert (won["truth"], won["challenger"], won["champion"], won["outcome"]) == ("[red]", "[red]", "green", "won")
    listed = run(*pair, "--class", "[red]").stdout
    assert listed.count("both-wrong") == listed.count("both-right") == 1


def test_a_version_that_is_not_there_is_a_failure(run: Callable[..., Result], pair: tuple[str, str]):
    """In one line of the service's own words."""
    assert "no model" in str(run("g0009-000000", pair[1]).exception)
