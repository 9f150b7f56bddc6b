"""Two versions compared over real HTTP, and through the client."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from understudy import images
from understudy.catalog import Catalog
from understudy.client import Client
from understudy.generation_records import PairOutcome
from understudy.shards import ShardWriter
from understudy.store import Store
from understudy.testing import picture

CLASSES = ("red", "green")


@pytest.fixture
def pair(challenge: Callable[..., str], opened: tuple[Catalog, Store], tmp_path: Path) -> tuple[str, str]:
    """A challenger that is right on five of six images, and a champion that is right on the last four."""
    challenger, champion = challenge(CLASSES, generation=1), challenge(CLASSES)
    writer = ShardWriter(tmp_path / "shard.tar", split="holdout")
    for seed in range(6):
        data = picture(0, 2, seed=seed)
        writer.add(
            data,
            sha256=hashlib.sha256(data).hexdigest(),
            name=f"{seed}.png",
            facts=images.inspect(data),
            class_name="red",
        )
    holdout = writer.seal(opened[1]).key
    for version, predicted in ((challenger, [0, 0, 0, 0, 0, 1]), (champion, [1, 1, 0, 0, 0, 0])):
        file = {
            "holdout": [holdout], "classes": ["red"], "truth": [0] * 6, "predicted": predicted, "model_classes": CLASSES,
        }  # fmt: skip
        opened[1].put(f"generations/0001/evaluation-{version}-00000000.json", json.dumps(file).encode())
    return challenger, champion


def test_two_versions_are_compared(url: str, pair: tuple[str, str]):
    """Counted, and image by image, as many at a time as are asked for."""
    with Client(url) as client:
        counted = client.comparison(*pair)
        won = list(client.compared_images(*pair, outcome=PairOutcome.WON))
        every = list(client.compared_images(*pair))

        assert (counted.won, counted.lost, counted.both_right, counted.both_wrong) == (2, 1, 3, 0)
        assert [(image.truth, image.challenger, image.champion) for image in won] == [("red", "red", "green")] * 2
        assert len(every) == 6
        assert list(client.compared_images(*pair, limit=3)) == every[:3]
        assert list(client.compared_images(*pair, class_name="blue")) == []


def test_pages_of_compared_images_join_end_to_end(http: httpx.Client, pair: tuple[str, str]):
    """Each names the next; the last names none."""
    asked = {"challenger": pair[0], "champion": pair[1], "limit": 4}
    first = http.get("/comparisons/images", params=asked).json()
    second = http.get("/comparisons/images", params=asked | {"cursor": first["next"]}).json()
    assert (len(first["items"]), len(second["items"]), second["next"]) == (4, 2, None)


def test_what_cannot_be_compared_is_not_found(http: httpx.Client, pair: tuple[str, str], challenge: Callable[..., str]):
    """A version that is not there, and two that no holdout joins."""
    missing = http.get("/comparisons", params={"challenger": "g9999-ffffff", "champion": pair[1]})
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    other = challenge(CLASSES, generation=2, sharpness=3.0)
    apart = http.get("/comparisons/images", params={"challenger": other, "champion": pair[1]})
    assert apart.status_code == 404
    assert "same holdout" in apart.json()["detail"]
    assert http.get("/comparisons", params={"challenger": "\x00", "champion": pair[1]}).status_code == 422
