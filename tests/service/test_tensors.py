"""Requests and answers of the inference protocol, without HTTP: everything that a stranger may get wrong."""

import base64
import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from service import tensors
from understudy.errors import UploadRefused
from understudy.testing import tiny_artifact

CLASSES = ("red", "green", "blue")
_, CARD = tiny_artifact(CLASSES)
MAX_IMAGES = 4

images_bytes = st.lists(st.binary(max_size=40), min_size=1, max_size=MAX_IMAGES)
pixel_arrays = st_numpy.arrays(
    np.uint8, st.tuples(st.integers(1, MAX_IMAGES), st.integers(1, 6), st.integers(1, 6), st.just(3))
)


def header(name: str = "pixels", **fields: Any) -> dict[str, Any]:
    """A request's JSON with one input; fields replace those of a good one."""
    datatype = "UINT8" if name == "pixels" else "BYTES"
    shape = [1, 2, 2, 3] if name == "pixels" else [1]
    return {"inputs": [{"name": name, "shape": shape, "datatype": datatype} | fields]}


def parse(request: dict[str, Any] | bytes, binary: bytes | None = None) -> tensors.Request:
    """Read a request as it comes over the wire, with or without binary data."""
    head = request if isinstance(request, bytes) else json.dumps(request).encode()
    json_bytes = None if binary is None else len(head)
    return tensors.parse(head + (binary or b""), json_bytes=json_bytes, max_images=MAX_IMAGES)


def refused(request: dict[str, Any] | bytes, binary: bytes | None = None) -> UploadRefused:
    """The error that a request is refused with."""
    with pytest.raises(UploadRefused) as caught:
        parse(request, binary)
    return caught.value


@settings(deadline=None)
@given(pixel_arrays)
def test_pixels_come_back_from_every_form(pixels: np.ndarray):
    """Binary, flat JSON and nested JSON are the same pixels."""
    shape = list(pixels.shape)
    sent = header(shape=shape, parameters={"binary_data_size": pixels.nbytes})
    forms = [
        parse(sent, pixels.tobytes()),
        parse(header(shape=shape, data=pixels.ravel().tolist())),
        parse(header(shape=shape, data=pixels.tolist())),
    ]
    for request in forms:
        assert isinstance(request.inputs, np.ndarray)
        assert request.inputs.dtype == np.uint8
        np.testing.assert_array_equal(request.inputs, pixels)


@settings(deadline=None)
@given(images_bytes)
def test_images_come_back_from_every_form(images: list[bytes]):
    """Framed by their lengths, or as base64 in JSON."""
    framed = tensors.frame(iter(images))
    sent = header("image", shape=[len(images)], parameters={"binary_data_size": len(framed)})
    assert parse(sent, framed).inputs == tuple(images)
    texts = [base64.b64encode(image).decode() for image in images]
    assert parse(header("image", shape=[len(images)], data=texts)).inputs == tuple(images)


@settings(deadline=None)
@given(images_bytes, st.data())
def test_frames_cut_anywhere_or_with_bytes_to_spare_are_refused(images: list[bytes], data: st.DataObject):
    """Never an exception of another kind, never an element too few."""
    framed = tensors.frame(iter(images))
    cut = data.draw(st.integers(0, len(framed) - 1))
    for spoiled in (framed[:cut], framed + b"\0"):
        with pytest.raises(UploadRefused):
            tensors.unframe(memoryview(spoiled), len(images))


@settings(deadline=None)
@given(st.binary(max_size=64), st.integers(1, 5))
def test_any_bytes_are_frames_or_refused(data: bytes, num_elements: int):
    """What is taken says again exactly what was sent."""
    try:
        elements = tensors.unframe(memoryview(data), num_elements)
    except UploadRefused:
        return
    assert len(elements) == num_elements
    assert tensors.frame(iter(elements)) == data


def test_a_frame_that_claims_four_gigabytes_reserves_nothing():
    """The length is compared with what is there before anything is made of it."""
    sent = header("image", parameters={"binary_data_size": 6})
    error = refused(sent, struct.pack("<I", 2**32 - 1) + b"ab")
    assert error.code == "wrong_data"
    assert "4294967295 bytes, but 2 are left" in str(error)


@settings(deadline=None)
@given(st.binary(max_size=80), st.none() | st.integers(0, 100))
def test_any_body_is_understood_or_refused(body: bytes, json_bytes: int | None):
    """Noise is answered with a refusal."""
    with pytest.raises(UploadRefused):
        tensors.parse(body, json_bytes=json_bytes, max_images=MAX_IMAGES)


@settings(deadline=None)
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3), st.lists, max_leaves=9)
)
def test_any_json_in_the_place_of_data_is_understood_or_refused(data: Any):
    """NaN, infinity, text, nesting of every kind: nothing but a refusal may come of it."""
    for sent in (header(data=data, shape=[1, 1, 1, 3]), header("image", data=data)):
        with contextlib.suppress(UploadRefused):
            parse(sent)


counts = st.integers(-1, 5) | st.integers(2**62, 2**64)
any_input = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["pixels", "image", "other"]),
        "shape": st.lists(counts, max_size=5) | st.just([1, 1, 1, 3]) | st.just([1]),
        "datatype": st.sampled_from(["UINT8", "BYTES", "FP32"]),
    },
    optional={
        "data": st.lists(st.integers(0, 255) | st.just("eA=="), max_size=4),
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": counts}),
    },
)


@settings(deadline=None, max_examples=300)
@given(any_input, st.none() | st.binary(max_size=8))
def test_any_request_that_is_almost_right_is_understood_or_refused(sent: dict[str, Any], binary: bytes | None):
    """Shapes of any rank and size, with data or sizes that contradict them."""
    with contextlib.suppress(UploadRefused):
        request = parse({"inputs": [sent]}, binary)
        assert len(request.inputs) == sent["shape"][0]


NAN = np.full(12, np.nan, np.float32)


@pytest.mark.parametrize(
    ("request_", "binary", "code", "says"),
    [
        (b"", None, "invalid_request", "body"),
        (b"{", None, "invalid_request", "body"),
        (b"[]", None, "invalid_request", "body"),
        (b"[" * 100_000, None, "invalid_request", "recursion"),
        ({"inputs": []}, None, "invalid_request", "inputs"),
        ({"id": 7} | header(data=[0] * 12), None, "invalid_request", "id"),
        (header("pixel", data=[0] * 12), None, "unknown_input", "'pixel'; send 'pixels' or 'image'"),
        ({"inputs": header()["inputs"] * 2}, None, "unknown_input", "2 inputs"),
        (header(datatype="FP32", data=[float("nan")] * 12), None, "wrong_datatype", "UINT8, not 'FP32'"),
        (header(datatype="FP32", parameters={"binary_data_size": 48}), NAN.tobytes(), "wrong_datatype", "normalises"),
        (header(data=[float("nan")] * 12), None, "wrong_data", "0 to 255"),
        (header(data=[1e999] * 12), None, "wrong_data", "0 to 255"),
        (header(data=[0.5] * 12), None, "wrong_data", "0 to 255"),
        (header(data=[256] * 12), None, "wrong_data", "0 to 255"),
        (header(data=[-1] * 12), None, "wrong_data", "0 to 255"),
        (header(data=["x" * 1000] * 12), None, "wrong_data", "0 to 255"),
        (header(data=[0] * 11), None, "wrong_data", "has 12 elements; 11 were sent"),
        (header(data=[[[[0, 0], [0, 0]], [[0, 0], [0, 0]]]]), None, "wrong_data", "not nested as its shape"),
        (header(shape=[2, 2, 3], data=[0] * 12), None, "wrong_shape", "[2, 2, 3]; send [N, size, size, 3]"),
        (header(shape=[1, 2, 2, 4], data=[0] * 16), None, "wrong_shape", "size, 3]"),
        (header(shape=[-1, 2, 2, 3], data=[0] * 12), None, "invalid_request", "shape.0"),
        (header(shape=[True, 2, 2, 3], data=[0] * 12), None, "invalid_request", "shape.0"),
        (header(shape=[1, 2**62, 2**62, 3], data=[0]), None, "wrong_data", "1 were sent"),
        (header(shape=[0, 2, 2, 3], data=[]), None, "image_count", "0 images; send 1 to 4"),
        (header(shape=[5, 2, 2, 3], data=[0] * 60), None, "image_count", "5 images; send 1 to 4"),
        (header("image", shape=[1, 1], data=["eA=="]), None, "wrong_shape", "send [N]"),
        (header("image", data=["no base64!"]), None, "invalid_base64", "image 0 is not base64"),
        (header("image", data=[7]), None, "wrong_data", "image 0 is not text"),
        (header("image", data=[["eA=="]]), None, "wrong_data", "image 0 is not text"),
        (header(), None, "wrong_data", "needs either data"),
        (header(data=[0] * 12, parameters={"binary_data_size": 0}), None, "wrong_data", "needs either data"),
        (header(parameters={"binary_data_size": 12}), None, "wrong_data", "0 bytes follow the JSON"),
        (header(parameters={"binary_data_size": 12}), bytes(11), "wrong_data", "11 bytes follow the JSON"),
        (header(parameters={"binary_data_size": 11}), bytes(11), "wrong_data", "has 12 bytes; 11 were sent"),
        (header(parameters={"binary_data_size": -1}), b"", "invalid_request", "binary_data_size"),
        (header(parameters={"binary_data_size": "12"}), bytes(12), "invalid_request", "binary_data_size"),
        (header(data=[0] * 12), b"spare", "wrong_data", "5 bytes follow the JSON"),
        (header(parameters={"shared_memory_region": "r"}), None, "shared_memory", "send the data"),
        (b"", b"raw pixels", "invalid_request", "without its JSON"),
        (b" " * (tensors.MAX_JSON_BYTES + 1), None, "json_too_large", "binary form"),
    ],
)
def test_a_request_of_the_wrong_form_is_refused_with_what_is_wrong(
    request_: dict[str, Any] | bytes, binary: bytes | None, code: str, says: str
):
    """A stable code and a sentence with the value and what to do."""
    error = refused(request_, binary)
    assert error.code == code
    assert says in str(error)


@pytest.mark.parametrize(
    ("outputs", "code"),
    [
        ([{"name": "logits"}], "unknown_output"),
        ([{"name": "probabilities"}] * 2, "unknown_output"),
        ([{"name": "probabilities", "parameters": {"classification": -1}}], "invalid_request"),
        ([{"name": "probabilities", "parameters": {"classification": True}}], "invalid_request"),
        ([{"name": "probabilities", "parameters": {"binary_data": "yes"}}], "invalid_request"),
        ([{"name": "probabilities", "parameters": {"shared_memory_region": "r"}}], "shared_memory"),
    ],
)
def test_an_output_that_there_is_not_is_refused(outputs: list[dict[str, Any]], code: str):
    """Names and parameters of outputs are checked as those of inputs are."""
    assert refused(header(data=[0] * 12) | {"outputs": outputs}).code == code


def test_json_longer_than_the_body_is_refused():
    """The header's length is a claim."""
    with pytest.raises(UploadRefused, match="has 99 bytes, but the body has 2"):
        tensors.parse(b"{}", json_bytes=99, max_images=1)


@pytest.mark.parametrize(
    ("parameters", "output", "binary"),
    [
        ({}, {}, False),
        ({"binary_data_output": True}, {}, True),
        ({"binary_data_output": True}, {"binary_data": False}, False),
        ({}, {"binary_data": True}, True),
        ({"sequence_id": 3, "priority": 1, "anything": [None]}, {"anything": {}}, False),
    ],
)
def test_an_output_is_binary_as_asked_for_it_or_else_for_all(
    parameters: dict[str, Any], output: dict[str, Any], binary: bool
):
    """The output's own parameter overrides the request's; parameters of others are ignored."""
    sent = header(data=[0] * 12) | {
        "id": "é",
        "parameters": parameters,
        "outputs": [{"name": "probabilities", "parameters": output}],
    }
    request = parse(sent)
    assert request.output == tensors.Wanted(binary, 0)
    assert request.id == "é"


PROBABILITIES = np.array([[0.25, 0.5, 0.25], [1e-5, 0.0, 0.99999]], np.float32)


def answered(**output: Any) -> tuple[dict[str, Any], bytes]:
    """The answer to a request for an output with these parameters: JSON and binary part."""
    sent = header(data=[0] * 12) | {
        "id": "42",
        "outputs": [{"name": "probabilities", "parameters": output}],
    }
    body, json_bytes = tensors.answer(parse(sent), PROBABILITIES, CARD, model_name="understudy")
    head = body if json_bytes is None else body[:json_bytes]
    return json.loads(head), b"" if json_bytes is None else body[json_bytes:]


def test_probabilities_come_back_as_numbers_and_as_bytes():
    """The same float32 in both forms."""
    in_json, nothing = answered()
    assert nothing == b""
    assert in_json["id"] == "42"
    assert in_json["model_version"] == CARD.version
    (output,) = in_json["outputs"]
    assert (output["shape"], output["datatype"]) == ([2, 3], "FP32")
    np.testing.assert_array_equal(np.array(output["data"], np.float32), PROBABILITIES.ravel())

    in_bytes, binary = answered(binary_data=True)
    assert in_bytes["outputs"][0]["parameters"] == {"binary_data_size": 24}
    assert "data" not in in_bytes["outputs"][0]
    np.testing.assert_array_equal(np.frombuffer(binary, "<f4"), PROBABILITIES.ravel())


def test_classification_names_the_best_classes_and_ties_go_to_the_first():
    """probability:index:label, at most as many as there are classes."""
    (output,) = answered(classification=2)[0]["outputs"]
    assert (output["shape"], output["datatype"]) == ([2, 2], "BYTES")
    assert output["data"] == ["0.5:1:green", "0.25:0:red", "0.99999:2:blue", "1e-05:0:red"]
    in_bytes, binary = answered(classification=9, binary_data=True)
    assert in_bytes["outputs"][0]["shape"] == [2, 3]
    assert tensors.unframe(memoryview(binary), 6)[5] == b"0.0:1:green"


def test_pixels_of_another_size_than_the_models_are_refused():
    """The message says both shapes, and the other way."""
    tensors.check_size(np.zeros((1, 8, 8, 3), np.uint8), 8)
    with pytest.raises(UploadRefused, match=r"\[1, 8, 9, 3\]; this model takes \[-1, 8, 8, 3\]"):
        tensors.check_size(np.zeros((1, 8, 9, 3), np.uint8), 8)


def test_metadata_says_what_a_card_says():
    """Shapes with -1 for the number of images."""
    assert [(one.name, one.datatype, one.shape) for one in (*tensors.inputs_of(CARD), *tensors.outputs_of(CARD))] == [
        ("pixels", "UINT8", [-1, 8, 8, 3]),
        ("image", "BYTES", [-1]),
        ("probabilities", "FP32", [-1, 3]),
    ]
