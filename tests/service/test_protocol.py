"""The inference protocol as its users know it: NVIDIA's own ``tritonclient`` against a running service."""

import base64
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from service.protocol import MODEL
from understudy import images
from understudy.records import Preprocessing
from understudy.testing import picture

Serving = Callable[..., str]


@pytest.fixture
def triton(url: str) -> Iterator[InferenceServerClient]:
    """The client, connected to the running service."""
    client = InferenceServerClient(url.removeprefix("http://"))
    yield client
    client.close()


def pixels_input(*classes: int, binary: bool = True) -> InferInput:
    """Prepared pixels of pictures in the colours of these classes."""
    pixels = np.stack([images.load(picture(c, 3), Preprocessing(size=8)) for c in classes])
    tensor = InferInput("pixels", list(pixels.shape), "UINT8")
    return tensor.set_data_from_numpy(pixels, binary_data=binary)


def image_input(*encoded: bytes, binary: bool = True) -> InferInput:
    """Encoded images."""
    tensor = InferInput("image", [len(encoded)], "BYTES")
    return tensor.set_data_from_numpy(np.array(encoded, dtype=np.object_), binary_data=binary)


def best_of(result: InferResult) -> list[int]:
    """The most probable class of each image."""
    probabilities = result.as_numpy("probabilities")
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    return probabilities.argmax(axis=1).tolist()  # type: ignore[no-any-return]


def test_health_and_metadata_are_understood(triton: InferenceServerClient, serving: Serving):
    """Live without a model; ready, described and listed with one."""
    assert triton.is_server_live()
    assert not triton.is_server_ready()
    assert not triton.is_model_ready(MODEL)
    version = serving()
    assert triton.is_server_ready()
    assert triton.is_model_ready(MODEL)
    assert triton.is_model_ready(MODEL, version)
    assert not triton.is_model_ready(MODEL, "g9999-000000")
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    model = triton.get_model_metadata(MODEL, version)
    assert [one["name"] for one in model["inputs"]] == ["pixels", "image"]
    assert model["versions"] == [version]
    assert [one["state"] for one in triton.get_model_repository_index()] == ["READY"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_pixels_are_classified_in_every_form(
    triton: InferenceServerClient, serving: Serving, binary_in: bool, binary_out: bool | None
):
    """Binary and JSON, in and out; no output asked for is all of them, binary."""
    version = serving()
    outputs = None if binary_out is None else [InferRequestedOutput("probabilities", binary_data=binary_out)]
    sent = pixels_input(2, 0, 1, binary=binary_in)
    result = triton.infer(MODEL, [sent], model_version=version, outputs=outputs, request_id="seven")
    assert best_of(result) == [2, 0, 1]
    assert result.get_response()["model_version"] == version
    assert result.get_response()["id"] == "seven"


def test_encoded_images_are_classified(triton: InferenceServerClient, serving: Serving):
    """JPEG and PNG as they are in the binary form, as base64 in JSON."""
    serving()
    encoded = (picture(1, 3, image_format="JPEG"), picture(0, 3))
    assert best_of(triton.infer(MODEL, [image_input(*encoded)])) == [1, 0]
    texts = [base64.b64encode(one) for one in encoded]
    assert best_of(triton.infer(MODEL, [image_input(*texts, binary=False)])) == [1, 0]


@pytest.mark.parametrize("binary", [True, False])
def test_classification_answers_labels(triton: InferenceServerClient, serving: Serving, binary: bool):
    """probability:index:label, the best first."""
    serving()
    wanted = InferRequestedOutput("probabilities", binary_data=binary, class_count=2)
    rows = triton.infer(MODEL, [pixels_input(2, 0)], outputs=[wanted]).as_numpy("probabilities")
    assert rows.shape == (2, 2)
    texts = [one.decode() if isinstance(one, bytes) else one for one in rows[:, 0]]
    probabilities, indices, labels = zip(*(text.split(":") for text in texts), strict=True)
    assert (indices, labels) == (("2", "0"), ("blue", "red"))
    assert all(0.5 < float(probability) <= 1.0 for probability in probabilities)


def test_the_asynchronous_call_works_too(triton: InferenceServerClient, serving: Serving):
    """Several in flight on one client."""
    serving()
    waiting = [triton.async_infer(MODEL, [pixels_input(c)]) for c in (0, 1, 2)]
    assert [best_of(one.get_result()) for one in waiting] == [[0], [1], [2]]


def test_errors_carry_our_sentence_and_status(triton: InferenceServerClient, serving: Serving):
    """What the service says is what the exception says."""
    with pytest.raises(InferenceServerException, match="no model serves yet") as not_ready:
        triton.get_model_metadata(MODEL)
    assert not_ready.value.status() == "503"
    serving()
    nan = InferInput("pixels", [1, 8, 8, 3], "FP32").set_data_from_numpy(np.full((1, 8, 8, 3), np.nan, np.float32))
    for call, status, says in [
        (lambda: triton.infer(MODEL, [nan]), "422", "'pixels' is UINT8, not 'FP32'"),
        (lambda: triton.infer("resnet", [pixels_input(0)]), "404", "there is no model 'resnet'"),
        (lambda: triton.infer(MODEL, [image_input(picture(0, 3), b"??")]), "415", "image 1: not an image"),
        (lambda: triton.infer(MODEL, [pixels_input(0)], request_compression_algorithm="gzip"), "415", "uncompressed"),
        (lambda: triton.load_model(MODEL), "404", "Not Found"),
    ]:
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == status
        assert says in caught.value.message()
