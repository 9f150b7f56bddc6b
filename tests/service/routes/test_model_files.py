"""``/models/{version}/files`` over real HTTP: what there is of a model, whole or by ranges, and who may have it."""

import hashlib
from collections.abc import Callable

import httpx

from understudy.catalog import Catalog, versions
from understudy.records import ModelCard
from understudy.store import Store, model_key

Opened = tuple[Catalog, Store]


def test_the_files_of_a_model_are_listed_with_what_they_are_checked_by(
    http: httpx.Client, promote: Callable[..., str], opened: Opened
):
    """The artifact and the card by their sha-256; of weights from before that was noted, the size."""
    version = promote()
    items = {item["name"]: item for item in http.get(f"/models/{version}/files").json()["items"]}
    assert set(items) == {"model.onnx", "card.json", "weights.safetensors"}
    for name in ("model.onnx", "card.json"):
        data = opened[1].get(model_key(version, name))
        assert (items[name]["num_bytes"], items[name]["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        answer = http.get(f"/models/{version}/files/{name}")
        assert (answer.content, answer.headers["etag"]) == (data, f'"{items[name]["sha256"]}"')
    assert (items["weights.safetensors"]["num_bytes"], items["weights.safetensors"]["sha256"]) == (0, None)
    assert http.get(f"/models/{version}/files/weights.safetensors").content == b""
    card = ModelCard(**http.get(f"/models/{version}/files/card.json").json())
    assert card == versions.get(opened[0], version).card


def test_a_range_goes_on_where_a_download_broke_off(http: httpx.Client, promote: Callable[..., str], opened: Opened):
    """As of an export; behind the end there is nothing."""
    version = promote()
    data = opened[1].get(model_key(version, "model.onnx"))
    path = f"/models/{version}/files/model.onnx"
    answer = http.get(path, headers={"Range": "bytes=100-"})
    assert (answer.status_code, answer.content) == (206, data[100:])
    refused = http.get(path, headers={"Range": f"bytes={len(data)}-"})
    assert (refused.status_code, refused.json()["code"]) == (416, "range_not_satisfiable")


def test_what_is_not_there_is_not_found(http: httpx.Client, promote: Callable[..., str], opened: Opened):
    """A model, a file, a file that was lost: each says so, and no name leads to another object."""
    version = promote()
    opened[1].delete(model_key(version, "weights.safetensors"))
    assert [i["name"] for i in http.get(f"/models/{version}/files").json()["items"]] == ["model.onnx", "card.json"]
    for path in (
        "g0009-000000/files",
        "g0009-000000/files/card.json",
        f"{version}/files/weights.safetensors",
        f"{version}/files/other.onnx",
    ):
        answer = http.get(f"/models/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    assert http.get(f"/models/{version}/files/..%2Fcard.json").status_code == 404
