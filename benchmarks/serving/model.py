"""Two EfficientNet-B0 at 224 px in a data folder, published and ready to serve, the first as champion.

Their weights are random, seeded; their batch statistics are measured on real photos, so that activations are of the size
that a trained network's have (numbers near zero would be slow, and unlike any real model's). Run as a program,
in a process of its own, because PyTorch is large: ``python -m benchmarks.serving.model FOLDER`` prints the versions.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.serving import photos
from trainer import export
from trainer import model as students
from trainer.learner import Normalise
from understudy import images, registry, settings
from understudy.catalog import Catalog, versions
from understudy.records import Evaluation, Interval, ModelCard, Preprocessing
from understudy.settings import ServiceSettings
from understudy.store import Store, model_key

STUDENT = "efficientnet_b0"
NUM_CLASSES = 1000
#: As timm's configuration of EfficientNet-B0 says.
PREPROCESSING = Preprocessing(size=224, crop_fraction=0.875, interpolation="bicubic")
CLASSES = tuple(f"class-{i:04d}" for i in range(NUM_CLASSES))
#: Photos that the batch statistics are measured on.
NUM_CALIBRATION = 16
#: Random weights have nothing to calibrate.
TEMPERATURE = 1.0


def build(seed: int) -> nn.Module:
    """A network with random weights and measured batch statistics, ready for evaluation."""
    torch.manual_seed(seed)
    network = students.build(STUDENT, NUM_CLASSES, dropout=0.0, drop_path_rate=0.0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the statistics of all that was seen, not mostly the initial ones
    pixels = np.stack([images.load(photo, PREPROCESSING) for photo in photos.make(seed, NUM_CALIBRATION)])
    with torch.inference_mode():
        network.train()(Normalise(PREPROCESSING)(torch.from_numpy(pixels)))
    return network.eval()


def artifact(seed: int) -> tuple[bytes, ModelCard]:
    """A model and its card, ready for ``registry.publish``."""
    network = build(seed)
    served = export.served(network, PREPROCESSING, TEMPERATURE)
    graph = export.to_onnx(served, PREPROCESSING.size)
    version = registry.version_id(seed, graph)
    return graph, ModelCard(
        version=version,
        generation=seed,
        student=STUDENT,
        num_parameters=students.num_parameters(network),
        classes=CLASSES,
        preprocessing=PREPROCESSING,
        temperature=TEMPERATURE,
        artifact_key=model_key(version, "model.onnx"),
        artifact_sha256=hashlib.sha256(graph).hexdigest(),
        artifact_bytes=len(graph),
        weights_key=model_key(version, "weights.safetensors"),
        probe=export.probe(served, PREPROCESSING.size),
        recipe={},
        teacher=None,
        data={},
        training={"untrained": "random weights, for measuring speed"},
        evaluation=_unmeasured(version),
        software=export.software(),
    )


def _unmeasured(version: str) -> Evaluation:
    return Evaluation(
        version=version,
        num_images=0,
        num_correct=0,
        accuracy=0.0,
        interval=Interval(low=0.0, high=1.0),
        per_class={},
        calibration_error=0.0,
        negative_log_likelihood=0.0,
        images_per_second=0.0,
    )


def publish(data: Path, num_versions: int = 2) -> list[str]:
    """Make the versions, publish them into a new data folder, promote the first."""
    chosen = settings.read(ServiceSettings, data=data)
    data.mkdir(parents=True, exist_ok=True)
    catalog = Catalog(chosen.catalog_url)
    try:
        catalog.migrate()
        cards = []
        for seed in range(num_versions):
            graph, card = artifact(seed)
            registry.publish(Store(chosen.store_url), catalog, card, graph, b"")
            cards.append(card)
        with catalog.write() as session:
            versions.promote(session, cards[0].version, instead_of=None, reason="benchmark", actor="benchmark")
    finally:
        catalog.close()
    return [card.version for card in cards]


if __name__ == "__main__":
    print(json.dumps(publish(Path(sys.argv[1]))))
