"""The engine: an artifact is loaded only if it is what its card says, and gives the probabilities that it should."""

import hashlib
import json
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from understudy import engine, images, registry
from understudy.errors import ArtifactRefused, NoChampion, NotFound
from understudy.records import ModelCard, Preprocessing, Probe, Variant
from understudy.testing import picture, tiny_artifact

CLASSES = ("red", "green", "blue")


def load(artifact: bytes, card):
    return engine.load(artifact, card, provider="cpu", threads=1)


def refused(artifact: bytes, card) -> str:
    """The code with which an artifact is refused."""
    with pytest.raises(ArtifactRefused) as refusal:
        load(artifact, card)
    return refusal.value.code


def with_checksum(card, artifact: bytes):
    """The card of another file, as a wrong export would write it."""
    return card.model_copy(update={"artifact_sha256": hashlib.sha256(artifact).hexdigest()})


def constant_graph(values: list[float], *, size: int = 8, dtype: int = TensorProto.UINT8) -> bytes:
    """A graph that gives the same probabilities to every image."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Unsqueeze", ["nothing", "last"], ["column"]),
        helper.make_node("Add", ["column", "values"], ["probabilities"]),
    ]
    constants = {"axes": [1, 2, 3], "last": [1]}
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("pixels", dtype, ["batch", size, size, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(values)])],
        [
            *(numpy_helper.from_array(np.array(v, dtype=np.int64), name) for name, v in constants.items()),
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.array(values, dtype=np.float32), "values"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def tiny():
    return tiny_artifact(CLASSES)


def test_a_sound_artifact_predicts(tiny):
    """A picture in a class's colour gets that class, with probabilities that sum to one."""
    loaded = load(*tiny)
    batch = np.stack([images.load(picture(c, 3), loaded.card.preprocessing) for c in range(3)])

    probs = loaded.predict(batch)  # (N, C) float32

    assert probs.dtype == np.float32
    assert probs.argmax(axis=1).tolist() == [0, 1, 2]
    np.testing.assert_allclose(probs.sum(axis=1), 1.0, atol=1e-5)
    assert (loaded.version, loaded.provider) == (tiny[1].version, "cpu")


def test_a_batch_of_any_size_gives_the_same_answers(tiny):
    """What an image is predicted to be does not depend on the images beside it."""
    loaded = load(*tiny)
    inputs = list(engine.probe_pixels(8, 7))

    one_by_one = list(engine.predict_all(loaded, iter(inputs), batch=1))
    in_threes = list(engine.predict_all(loaded, iter(inputs), batch=3))

    assert len(one_by_one) == len(in_threes) == 7
    np.testing.assert_allclose(one_by_one, in_threes, atol=1e-6)
    assert list(engine.predict_all(loaded, iter([]), batch=3)) == []


def test_threads_may_share_an_engine(tiny):
    """Calls from several threads at once answer as one call does."""
    loaded = load(*tiny)
    batch = engine.probe_pixels(8, 4)
    expected = loaded.predict(batch)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(loaded.predict(batch))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for answer in answers:
        np.testing.assert_array_equal(answer, expected)
    assert len(answers) == 4


@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_one_flipped_byte_is_refused(tiny, place):
    """A file that rotted on the disk is not loaded, wherever the bit is."""
    artifact, card = tiny
    broken = bytearray(artifact)
    broken[int(place * len(broken)) if place >= 0 else -1] ^= 1

    assert refused(bytes(broken), card) == "checksum"


def test_a_cut_file_is_refused(tiny):
    """Half a file is not the file, and not a model even under a card that says so."""
    artifact, card = tiny
    half = artifact[: len(artifact) // 2]

    assert refused(half, card) == "checksum"
    assert refused(half, with_checksum(card, half)) == "unreadable"


@pytest.mark.parametrize("data", [b"", b"not a model at all", bytes(1000)])
def test_what_is_no_model_is_refused(tiny, data):
    """Bytes that are not ONNX are unreadable, whatever the card says."""
    assert refused(data, with_checksum(tiny[1], data)) in {"unreadable", "contract"}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"classes": ("red", "green")}, id="fewer classes"),
        pytest.param({"classes": (*CLASSES, "black")}, id="more classes"),
        pytest.param({"preprocessing": Preprocessing(size=16)}, id="another input size"),
    ],
)
def test_a_graph_that_contradicts_its_card_is_refused(tiny, change):
    """The card's classes and input size are those of the graph, or the model is not loaded."""
    artifact, card = tiny

    assert refused(artifact, card.model_copy(update=change)) == "contract"


def test_a_graph_that_takes_floats_is_refused(tiny):
    """Normalisation is inside the graph: what takes anything but uint8 is not our export."""
    artifact = constant_graph([0.2, 0.3, 0.5], dtype=TensorProto.FLOAT)

    assert refused(artifact, with_checksum(tiny[1], artifact)) == "contract"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_gives_no_numbers_is_refused(tiny, value):
    """A probability that is not finite never gets past the load."""
    artifact = constant_graph([value, 0.3, 0.5])

    assert refused(artifact, with_checksum(tiny[1], artifact)) == "not_finite"


def test_a_model_that_is_off_its_probe_is_refused(tiny):
    """A sound file that does not compute what torch computed at export is not the model."""
    artifact, card = tiny
    other, _ = tiny_artifact(CLASSES, rotated_by=1)

    assert refused(other, with_checksum(card, other)) == "parity"
    wrong_shape = Probe(num_images=2, probabilities=((0.5, 0.5), (0.5, 0.5)), tolerance=1.0)
    assert refused(artifact, card.model_copy(update={"probe": wrong_shape})) == "parity"


def test_the_refusal_says_what_was_seen(tiny):
    """The message names the model and both values."""
    artifact, card = tiny

    with pytest.raises(ArtifactRefused, match=rf"{card.version}.*\[8, 8, 3\].*\[16, 16, 3\]"):
        load(artifact, card.model_copy(update={"preprocessing": Preprocessing(size=16)}))


def test_an_unknown_provider_is_refused(tiny):
    """A misspelt setting does not end on the CPU without a word."""
    with pytest.raises(ArtifactRefused, match="use auto, cpu, cuda or tensorrt") as refusal:
        engine.load(*tiny, provider="gpu")

    assert refusal.value.code == "provider"


EVERYTHING = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
CPU_ONLY = ("AzureExecutionProvider", "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("provider", "built", "has_gpu", "order"),
    [
        ("auto", EVERYTHING, True, ("cuda", "cpu")),
        ("auto", EVERYTHING, False, ("cpu",)),
        ("auto", CPU_ONLY, False, ("cpu",)),
        ("tensorrt", EVERYTHING, True, ("tensorrt",)),
        ("cuda", EVERYTHING, False, ("cuda",)),
        ("cpu", EVERYTHING, True, ("cpu",)),
    ],
)
def test_providers_are_tried_in_order(provider, built, has_gpu, order):
    """CUDA before the CPU, TensorRT only where it is asked for, and what is asked for instead of anything else."""
    assert engine.provider_order(provider, built=built, has_gpu=has_gpu) == (order, None)


def test_a_gpu_that_the_installed_library_cannot_use_is_a_fallback():
    """The package without CUDA on a machine with a GPU serves, and says what to install."""
    order, fallback = engine.provider_order("auto", built=CPU_ONLY, has_gpu=True)

    assert order == ("cpu",)
    assert "onnxruntime-gpu" in fallback


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_was_not_built_is_refused(provider):
    """Whoever asks for a GPU does not get a CPU."""
    with pytest.raises(ArtifactRefused, match="built without it") as refusal:
        engine.provider_order(provider, built=CPU_ONLY, has_gpu=True)

    assert refusal.value.code == "provider"


class Session:
    """As much of a session as the choice looks at."""

    def __init__(self, *providers: str) -> None:
        self.providers = providers

    def get_providers(self) -> tuple[str, ...]:
        return self.providers


def no_driver(provider: str) -> Session:
    """A machine whose CUDA cannot be opened."""
    if provider == "cuda":
        raise RuntimeError("CUDA failure 35: driver too old")
    return Session(EVERYTHING[-1])


def no_library(provider: str) -> Session:
    """What ONNX Runtime does without cuDNN: it opens the session on the CPU, without a word."""
    return Session(EVERYTHING[-1])


@pytest.mark.parametrize(("machine", "why"), [(no_driver, "driver too old"), (no_library, "want of a library")])
def test_a_gpu_that_fails_is_never_silent(machine, why):
    """Going on with the CPU names the reason; where the GPU was asked for, it is refused with it."""
    opened, _, failures = engine.open_first(("cuda", "cpu"), machine, "g0001-abcdef")

    assert opened == "cpu"
    assert len(failures) == 1
    assert why in failures[0]
    with pytest.raises(ArtifactRefused, match=why) as refusal:
        engine.open_first(("cuda",), machine, "g0001-abcdef")
    assert refusal.value.code == "provider"


def test_a_gpu_that_works_is_no_fallback():
    """The first provider that opens is the last that is tried."""
    opened, _, failures = engine.open_first(
        ("cuda", "cpu"), lambda name: Session(engine.PROVIDERS[name]), "g0001-abcdef"
    )

    assert (opened, failures) == ("cuda", ())


def test_a_gpu_is_seen_by_its_devices(tmp_path):
    """Whether or not a library can use it."""
    assert not engine.has_gpu(tmp_path)

    (tmp_path / "nvidia0").touch()

    assert engine.has_gpu(tmp_path)


def test_an_engine_says_how_it_runs(tiny):
    """Provider, number format and threads are part of what it is."""
    loaded = engine.load(*tiny, provider="cpu", threads=3, arena=True)

    assert (loaded.provider, loaded.variant, loaded.threads, loaded.fallback) == ("cpu", "fp32", 3, None)
    assert load(*tiny).threads == 1
    assert engine.load(*tiny, provider="cpu").threads == engine.available_cores()


@pytest.mark.gpu
@pytest.mark.skipif(not engine.has_gpu(), reason="there is no GPU here")
def test_cuda_answers_as_the_cpu_does(tiny):
    """On a machine with a GPU, auto takes it, says so, and gives the same probabilities to three digits."""
    pixels = engine.probe_pixels(8, 4)

    on_gpu = engine.load(*tiny)

    assert (on_gpu.provider, on_gpu.fallback) == ("cuda", None)
    np.testing.assert_allclose(on_gpu.predict(pixels), load(*tiny).predict(pixels), atol=5e-3)


def with_variant(tiny, **changes):
    """A file of the same function in other bytes, and the card of ``tiny`` with it as its int8 variant."""
    artifact, card = tiny
    graph = onnx.load_from_string(artifact)
    graph.doc_string = "as if in other numbers"
    other = graph.SerializeToString()
    variant = Variant(
        name="int8",
        provider="cpu",
        artifact_key=f"models/{card.version}/model.int8.onnx",
        artifact_sha256=hashlib.sha256(other).hexdigest(),
        artifact_bytes=len(other),
        probe=card.probe,
        tolerance=0.005,
    )
    return other, card.model_copy(update={"variants": (variant.model_copy(update=changes),)})


def test_a_variant_is_held_to_its_own_checksum_and_probe(tiny):
    """Its file is not the version's, nor the version's its."""
    other, card = with_variant(tiny)
    off = with_variant(tiny, probe=Probe(num_images=1, probabilities=((1.0, 0.0, 0.0),), tolerance=0.02))[1]

    loaded = engine.load(other, card, provider="cpu", threads=1, variant="int8")

    assert (loaded.variant, loaded.version) == ("int8", card.version)
    for artifact, of, variant, code in (
        (tiny[0], card, "int8", "checksum"),
        (other, card, None, "checksum"),
        (other, off, "int8", "parity"),
        (other, card, "fp16", "variant"),
    ):
        with pytest.raises(ArtifactRefused) as refusal:
            engine.load(artifact, of, provider="cpu", variant=variant)
        assert refusal.value.code == code


def test_a_card_from_before_variants_still_loads(tiny):
    """The field has a default: a store's older versions are served on."""
    card = tiny[1]
    older = {name: value for name, value in json.loads(card.to_json()).items() if name != "variants"}
    del older["evaluation"]["variant"]

    assert ModelCard.model_validate(older) == card


def test_the_probes_pixels_are_golden():
    """The probe's input never changes: a card's probabilities belong to it for ever."""
    pixels = engine.probe_pixels(8, 3)

    assert (pixels.shape, pixels.dtype) == ((3, 8, 8, 3), np.uint8)
    assert (
        hashlib.sha256(pixels.tobytes()).hexdigest()
        == "a332c39bcf3713b16fe954bb410d1fa934fa788d0800a3cd8d45844e89254f6d"
    )
    assert np.unique(pixels[0]).tolist() == [128]


def test_a_published_version_is_loaded_from_the_store(tiny, local_store, sqlite_catalog):
    """The registry keeps artifact, weights and card; publishing twice is publishing once."""
    artifact, card = tiny
    for _ in range(2):
        registry.publish(local_store, sqlite_catalog, card, artifact, b"weights")

    loaded = registry.load(local_store, sqlite_catalog, card.version, provider="cpu", threads=1)

    assert loaded.card == card
    assert len(local_store.list(f"models/{card.version}")) == 3


def test_a_version_whose_file_is_gone_is_refused(tiny, local_store, sqlite_catalog):
    """A lost file has its own code, so that the operator knows to look into the store."""
    artifact, card = tiny
    registry.publish(local_store, sqlite_catalog, card, artifact, b"weights")
    local_store.delete(card.artifact_key)

    with pytest.raises(ArtifactRefused, match="missing") as refusal:
        registry.load(local_store, sqlite_catalog, card.version)

    assert refusal.value.code == "missing"


def test_a_version_that_was_never_registered_is_not_found(local_store, sqlite_catalog):
    """Files without a row in the catalog are not a version."""
    with pytest.raises(NotFound):
        registry.load(local_store, sqlite_catalog, "g0000-000000")
    with pytest.raises(NoChampion, match="labeled set"):
        registry.champion(sqlite_catalog)


def test_the_artifact_of_the_tests_is_sound_onnx(tiny):
    """The tiny model obeys the same checker as a trained one."""
    onnx.checker.check_model(onnx.load_from_string(tiny[0]), full_check=True)
