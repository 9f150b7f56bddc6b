"""``/v2`` over real HTTP: the protocol's routes, its binary form, and every way to be refused."""

import base64
import gzip
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from understudy import images
from understudy.records import Preprocessing
from understudy.testing import picture

RED = picture(0, 3)
MODEL = "/v2/models/understudy"
Serving = Callable[..., str]

#: Where everything that is asked of a model lies.
ABOUT_THE_MODEL = [("GET", MODEL), ("GET", f"{MODEL}/ready"), ("POST", f"{MODEL}/infer")]


def pixels_of(*classes: int) -> np.ndarray:
    """Prepared inputs of pictures in the colours of these classes: (N, 8, 8, 3) uint8."""
    return np.stack([images.load(picture(c, 3), Preprocessing(size=8)) for c in classes])


def request_of(*, name: str = "image", count: int = 1, **fields: Any) -> dict[str, Any]:
    """A request with one input."""
    shape, datatype = ([count], "BYTES") if name == "image" else ([count, 8, 8, 3], "UINT8")
    return {"inputs": [{"name": name, "shape": shape, "datatype": datatype} | fields]}


def image_request(*data: bytes) -> dict[str, Any]:
    """Encoded images as JSON can carry them."""
    return request_of(count=len(data), data=[base64.b64encode(one).decode() for one in data])


def binary_request(request: dict[str, Any], binary: bytes) -> dict[str, Any]:
    """What httpx shall send: JSON, then tensors."""
    head = json.dumps(request).encode()
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    return {"content": head + binary, "headers": headers}


def labels_of(answer: httpx.Response) -> list[str]:
    """The best class of each image, from probabilities in JSON."""
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    rows = np.array(output["data"]).reshape(output["shape"])
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-5)
    return [("red", "green", "blue")[i] for i in rows.argmax(axis=1)]


def assert_problem(answer: httpx.Response, status: int, code: str) -> str:
    """A problem that both kinds of client understand; its sentence is the answer."""
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    detail: str = answer.json()["detail"]
    assert answer.json()["error"] == detail
    return detail


def test_the_server_is_live_before_there_is_a_model_and_ready_only_with_one(http: httpx.Client, serving: Serving):
    """Live is of the process, ready of the model; not ready is 503 with a remedy."""
    assert http.get("/v2/health/live").json() == {"live": True}
    for method, path in [("GET", "/v2/health/ready"), *ABOUT_THE_MODEL]:
        answer = http.request(method, path)
        assert "understudy init" in assert_problem(answer, 503, "no_champion")
        assert answer.headers["retry-after"]
    assert http.post("/v2/repository/index").json() == []
    serving()
    assert http.get("/v2/health/ready").json() == {"live": True, "ready": True}
    assert http.get(f"{MODEL}/ready").json() == {"name": "understudy", "ready": True}


def test_server_and_model_describe_themselves(http: httpx.Client, serving: Serving):
    """Extensions, versions, inputs and outputs; with a version in the path the same."""
    version = serving()
    server = http.get("/v2").json()
    assert server["name"] == "understudy"
    assert set(server["extensions"]) == {"binary_tensor_data", "classification"}
    model = http.get(MODEL).json()
    assert (model["name"], model["versions"], model["platform"]) == ("understudy", [version], "onnxruntime_onnx")
    assert model["inputs"][0] == {"name": "pixels", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}
    assert model["inputs"][1] == {"name": "image", "datatype": "BYTES", "shape": [-1]}
    assert model["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}]
    assert http.get(f"{MODEL}/versions/{version}").json() == model
    assert http.get(f"{MODEL}/versions/{version}/ready").json() == {"name": "understudy", "ready": True}


def test_the_repository_index_lists_what_serves_and_what_could_not_be_loaded(
    http: httpx.Client, serving: Serving, promote: Callable[..., str], until: Callable[..., None]
):
    """A damaged champion is UNAVAILABLE with its reason; asked for what is ready, it is left out."""
    version = serving()
    ready = {"name": "understudy", "version": version, "state": "READY", "reason": ""}
    assert http.post("/v2/repository/index").json() == [ready]
    damaged = promote(damaged=True, sharpness=7.0)
    until(lambda: len(http.post("/v2/repository/index", json={}).json()) == 2)
    refused = http.post("/v2/repository/index", json={"ready": False}).json()[1]
    assert (refused["version"], refused["state"]) == (damaged, "UNAVAILABLE")
    assert "sha-256" in refused["reason"]
    assert http.post("/v2/repository/index", json={"ready": True}).json() == [ready]
    assert_problem(http.post("/v2/repository/index", json={"ready": "perhaps"}), 422, "invalid_request")


def test_images_and_pixels_in_json_are_classified_and_the_version_named(http: httpx.Client, serving: Serving):
    """Encoded images as base64, prepared pixels as numbers: the same answer as /classify's, in the order sent."""
    version = serving()
    answer = http.post(f"{MODEL}/infer", json={"id": "42"} | image_request(picture(2, 3), RED))
    assert labels_of(answer) == ["blue", "red"]
    assert answer.json() | {"outputs": []} == {
        "model_name": "understudy",
        "model_version": version,
        "id": "42",
        "outputs": [],
    }
    numbers = request_of(name="pixels", count=2, data=pixels_of(2, 0).ravel().tolist())
    assert http.post(f"{MODEL}/versions/{version}/infer", json=numbers).json()["outputs"] == answer.json()["outputs"]
    best = http.post("/classify", content=RED, params={"top_k": 1}).json()["predictions"][0]["probability"]
    assert answer.json()["outputs"][0]["data"][3] == pytest.approx(best)


def test_binary_tensors_go_in_and_come_out(http: httpx.Client, serving: Serving):
    """Pixels after the JSON; the answer says where its own JSON ends."""
    serving()
    request = request_of(name="pixels", count=2, parameters={"binary_data_size": 2 * 8 * 8 * 3})
    sent = request | {"parameters": {"binary_data_output": True}}
    answer = http.post(f"{MODEL}/infer", **binary_request(sent, pixels_of(1, 2).tobytes()))
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:length])["outputs"]
    assert output["parameters"]["binary_data_size"] == len(answer.content) - length == 2 * 3 * 4
    assert np.frombuffer(answer.content[length:], "<f4").reshape(2, 3).argmax(axis=1).tolist() == [1, 2]
    in_json = http.post(f"{MODEL}/infer", **binary_request(request, pixels_of(1, 2).tobytes()))
    assert labels_of(in_json) == ["green", "blue"]


@pytest.mark.parametrize(("data", "status", "code"), [(b"", 422, "empty"), (RED[:200], 422, "truncated")])
def test_one_bad_image_refuses_the_request_and_is_named(
    http: httpx.Client, serving: Serving, data: bytes, status: int, code: str
):
    """Tensors have no place for an error of one row."""
    serving()
    answer = http.post(f"{MODEL}/infer", json=image_request(RED, RED, data, RED))
    assert "image 2: " in assert_problem(answer, status, code)


def test_what_is_no_image_is_415(http: httpx.Client, serving: Serving):
    """As at /classify."""
    serving()
    assert_problem(http.post(f"{MODEL}/infer", json=image_request(b"no picture")), 415, "not_an_image")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({"content": b""}, "invalid_request"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, "invalid_request"),
        ({"json": {"inputs": [], "outputs": 3}}, "invalid_request"),
        ({"json": {}, "headers": {"inference-header-content-length": "-1"}}, "invalid_request"),
        ({"json": {}, "headers": {"inference-header-content-length": "x"}}, "invalid_request"),
        ({"json": {}, "headers": {"inference-header-content-length": "9" * 40}}, "invalid_request"),
        ({"json": {}, "headers": {"inference-header-content-length": "3"}}, "invalid_request"),
        ({"content": b"\0" * 192, "headers": {"inference-header-content-length": "0"}}, "invalid_request"),
        ({"json": request_of(name="tensor", data=[0])}, "unknown_input"),
        ({"json": request_of(name="pixels", count=65, data=[0] * 65 * 192)}, "image_count"),
        ({"json": request_of(count=65, data=["eA=="] * 65)}, "image_count"),
        ({"json": request_of(name="pixels", shape=[1, 4, 4, 3], data=[0] * 48)}, "wrong_shape"),
        ({"json": request_of(name="pixels", data=[0] * 191)}, "wrong_data"),
        ({"json": request_of(name="pixels", datatype="FP32", data=[0.5] * 192)}, "wrong_datatype"),
        (
            binary_request(
                request_of(name="pixels", datatype="FP32", parameters={"binary_data_size": 768}),
                np.full(192, np.nan, np.float32).tobytes(),
            ),
            "wrong_datatype",
        ),
        ({"content": json.dumps(request_of(name="pixels", data=[float("nan")] * 192)).encode()}, "wrong_data"),
        (binary_request(request_of(parameters={"binary_data_size": 6}), b"\xff\xff\xff\xff??"), "wrong_data"),
    ],
)
def test_a_request_of_the_wrong_form_is_422_and_says_what_is_wrong(
    http: httpx.Client, serving: Serving, sent: dict[str, Any], code: str
):
    """NaN-filled tensors, lying lengths, wrong names, types, shapes and counts: a problem, never a 5xx."""
    serving()
    assert assert_problem(http.post(f"{MODEL}/infer", **sent), 422, code)


def test_contents_that_are_not_taken_are_415(http: httpx.Client, serving: Serving):
    """A wrong content type, and compressed bodies, which could be bombs."""
    serving()
    body = json.dumps(image_request(RED)).encode()
    html = http.post(f"{MODEL}/infer", content=body, headers={"content-type": "text/html"})
    assert_problem(html, 415, "unsupported_media_type")
    for coding in ("gzip", "deflate", "gzip, gzip", "br"):
        answer = http.post(f"{MODEL}/infer", content=gzip.compress(body), headers={"content-encoding": coding})
        assert "uncompressed" in assert_problem(answer, 415, "unsupported_media_type")
    plain = http.post(f"{MODEL}/infer", content=body, headers={"content-encoding": "identity"})
    assert labels_of(plain) == ["red"]


def test_bodies_over_a_limit_are_413(http: httpx.Client, serving: Serving):
    """The body's limit with and without a length, and the lower one of JSON, which costs more to read."""
    serving()
    big = 65 * 2**20
    declared = http.post(f"{MODEL}/infer", content=b"\0" * big)
    assert str(64 * 2**20) in assert_problem(declared, 413, "body_too_large")
    assert_problem(http.post(f"{MODEL}/infer", content=iter([b"\0" * big])), 413, "body_too_large")
    long = http.post(f"{MODEL}/infer", content=b" " * (5 * 2**20))
    assert "binary form" in assert_problem(long, 413, "json_too_large")


@pytest.mark.parametrize("version", ["", "/versions/g9999-000000"])
def test_other_models_and_versions_are_404(http: httpx.Client, serving: Serving, version: str):
    """The sentence names what there is instead."""
    serves = serving()
    model, says = ("/v2/models/resnet", "'understudy'") if not version else (MODEL, serves)
    for method, path in ABOUT_THE_MODEL:
        answer = http.request(method, path.replace(MODEL, model + version))
        assert says in assert_problem(answer, 404, "not_found")


def test_routes_and_methods_that_there_are_not_answer_in_the_protocols_words(http: httpx.Client):
    """404 and 405 under /v2 have the member error, elsewhere they have not."""
    assert_problem(http.get(f"{MODEL}/config"), 404, "not_found")
    assert_problem(http.get("/v2/repository/index"), 405, "method_not_allowed")
    assert "error" not in http.get("/v2x").json()


def test_a_version_that_serves_no_more_is_404(http: httpx.Client, serving: Serving):
    """Who asks for one version never gets the answer of another."""
    old = serving()
    new = serving(sharpness=7.0, generation=1)
    gone = http.post(f"{MODEL}/versions/{old}/infer", json=image_request(RED))
    assert new in assert_problem(gone, 404, "not_found")
    assert labels_of(http.post(f"{MODEL}/versions/{new}/infer", json=image_request(RED))) == ["red"]


def test_images_are_counted_as_those_of_classify_are(http: httpx.Client, serving: Serving):
    """By version, and by the reason of a refusal."""
    version = serving()
    http.post(f"{MODEL}/infer", json=image_request(RED, RED))
    http.post(f"{MODEL}/infer", json=image_request(RED[:200]))
    text = http.get("/metrics").text
    assert f'understudy_classified_images_total{{model="{version}"}} 2.0' in text
    assert 'understudy_refused_images_total{code="truncated"} 1.0' in text
    assert 'route="/v2/models/{name}/infer",status="200"' in text
