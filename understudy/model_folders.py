"""A model as a folder to take away: as ONNX, for timm, or as bare weights, each with a card and a program that runs it.

It knows what stands in a card and how others lay out their folders; it loads no model, and knows neither torch nor
timm. timm's layout: https://huggingface.co/docs/timm/models (``config.json``), read by ``timm.create_model`` 1.0.
"""

import enum
import json
from collections.abc import Mapping
from typing import Any

from understudy import architectures
from understudy.architectures import FAMILY, ScaledEfficientNet
from understudy.errors import Refused
from understudy.records import ModelCard

#: As ``understudy.engine`` has them, which loads what every command would wait for.
INPUT, OUTPUT = "pixels", "probabilities"
CARD, ARTIFACT, WEIGHTS = "card.json", "model.onnx", "weights.safetensors"
#: The sizes of the paper that timm has as ``efficientnet_NAME``: with the same blocks and names of tensors.
TIMM_SIZES = frozenset({"b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2"})
#: What ours have and timm's default has not (``trainer.efficientnet.BATCH_NORM_EPS``).
TIMM_ARGUMENTS = {"bn_eps": 1e-3}


class ModelFormat(enum.StrEnum):
    ONNX = "onnx"  #: pixels in, probabilities out: what is served
    TIMM = "timm"  #: for ``timm.create_model``: normalised input, logits
    SAFETENSORS = "safetensors"  #: the weights, for ``trainer.model.build``: normalised input, logits


def files(format: ModelFormat) -> dict[str, str]:
    """The service's files that the folder has, and what they are called in it."""
    weights = {
        ModelFormat.ONNX: {ARTIFACT: ARTIFACT},
        ModelFormat.TIMM: {WEIGHTS: "model.safetensors"},
        ModelFormat.SAFETENSORS: {WEIGHTS: WEIGHTS},
    }[format]
    return {CARD: CARD} | weights


def documents(card: ModelCard, format: ModelFormat) -> dict[str, str]:
    """The texts that are written beside those files. Raises Refused for timm with a student that timm has not."""
    program = {
        ModelFormat.ONNX: _WITH_ONNX,
        ModelFormat.TIMM: _WITH_TIMM,
        ModelFormat.SAFETENSORS: _WITH_TRAINER,
    }[format].replace("INPUT", repr(INPUT))
    texts = {"run.py": program, "README.md": _readme(card, format, program)}
    if format == ModelFormat.TIMM:
        texts["config.json"] = json.dumps(timm_config(card), indent=1, ensure_ascii=False) + "\n"
    return texts


def timm_model(student: str) -> tuple[str, dict[str, Any]]:
    """The name that timm has for a student, and what its function is to be told. Raises Refused if it has none."""
    net = architectures.parse(student)
    if net is None:
        return student.partition(".")[0], {}  # a tag names other weights of the same architecture
    size = student.partition("@")[2].strip(",")
    if isinstance(net, ScaledEfficientNet) and size in TIMM_SIZES:
        return f"{FAMILY}_{size}", dict(TIMM_ARGUMENTS)
    raise Refused(
        f"student {student} is no architecture that timm has by name; export it as onnx, which runs anywhere, or as "
        f"safetensors, which trainer.model.build({student!r}, …) of Understudy loads",
        code="not_in_timm",
    )


def timm_config(card: ModelCard) -> dict[str, Any]:
    """``config.json`` as timm and Hugging Face's hub have it. Raises Refused if timm has no such architecture."""
    name, arguments = timm_model(card.student)
    how = card.preprocessing
    config: dict[str, Any] = {
        "architecture": name,
        "num_classes": len(card.classes),
        "label_names": list(card.classes),
        "pretrained_cfg": {
            "input_size": [3, how.size, how.size],
            "interpolation": how.interpolation,
            "crop_pct": how.crop_fraction,
            "crop_mode": "center",
            "mean": list(how.mean),
            "std": list(how.std),
            "num_classes": len(card.classes),
        },
        "understudy": {"version": card.version, "temperature": card.temperature},
    }
    return config | ({"model_args": arguments} if arguments else {})


def _readme(card: ModelCard, format: ModelFormat, program: str) -> str:
    how, measured = card.preprocessing, card.evaluation
    return _README.format(
        version=card.version,
        student=card.student,
        generation=card.generation,
        num_classes=len(card.classes),
        accuracy=f"{measured.accuracy:.1%}",
        interval=f"{measured.interval.low:.1%} to {measured.interval.high:.1%}",
        num_images=f"{measured.num_images:,}",
        size=how.size,
        side=int(how.size / how.crop_fraction),
        interpolation=how.interpolation,
        contract=_CONTRACTS[format].format_map(_said(card)),
        needs=_NEEDS[format],
        program=program,
    )


def _said(card: ModelCard) -> Mapping[str, object]:
    how = card.preprocessing
    return {
        "input": INPUT,
        "output": OUTPUT,
        "size": how.size,
        "mean": list(how.mean),
        "std": list(how.std),
        "temperature": repr(card.temperature),
        "student": card.student,
        "num_classes": len(card.classes),
    }


_README = """# {version}

A classifier of {num_classes} classes ({student}, generation {generation}): accuracy {accuracy} on {num_images} images of
its holdout, 95 % interval {interval}. `card.json` has the classes in the order of the outputs, and where it came from.

{contract}

An image is made upright (EXIF), laid on white where it is transparent, resized ({interpolation}) so that its shorter
side has {side} pixels, and the central {size} × {size} is cut out. `run.py` does it to images of 8 bits ({needs}):
`python run.py IMAGE`.

```python
{program}```
"""

_CONTRACTS = {
    ModelFormat.ONNX: "`model.onnx` takes `{input}`, uint8 (N, {size}, {size}, 3) in RGB, and gives `{output}`, float32 "
    "(N, {num_classes})\nprobabilities: normalisation, temperature and softmax are inside.",
    ModelFormat.TIMM: "`timm.create_model('local-dir:FOLDER', pretrained=True)` loads it. It takes float32 "
    "(N, 3, {size}, {size}), normalised\nwith mean {mean} and std {std}, and gives logits. The probabilities that were "
    "served are\n`softmax(logits / {temperature})`: the temperature is not in the weights.",
    ModelFormat.SAFETENSORS: "`trainer.model.build('{student}', {num_classes}, dropout=0, drop_path_rate=0)` of "
    "Understudy\nhas its tensors. It takes float32 (N, 3, {size}, {size}), normalised with mean {mean} and std {std}, "
    "and gives\nlogits. The probabilities that were served are `softmax(logits / {temperature})`: the temperature is not "
    "in the weights.",
}

_NEEDS = {
    ModelFormat.ONNX: "with onnxruntime, numpy and pillow",
    ModelFormat.TIMM: "with timm",
    ModelFormat.SAFETENSORS: "with Understudy",
}

_WITH_ONNX = """import json, sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

here = Path(__file__).parent
card = json.loads((here / "card.json").read_text("utf-8"))
how = card["preprocessing"]
seen = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGBA")
image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
size, side = how["size"], int(how["size"] / how["crop_fraction"])
width, height = (side * each // min(image.size) for each in image.size)
image = image.resize((width, height), Image.Resampling[how["interpolation"].upper()])
left, top = round((width - size) / 2), round((height - size) / 2)
pixels = np.asarray(image.crop((left, top, left + size, top + size)))[None]  # (1, size, size, 3) uint8
(probabilities,) = onnxruntime.InferenceSession(here / "model.onnx").run(None, {INPUT: pixels})
for i in probabilities[0].argsort()[::-1][:5]:
    print(f"{probabilities[0][i]:.6f} {card['classes'][i]}")
"""

_WITH_TIMM = """import json, sys
from pathlib import Path

import timm
import torch
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_data_config

here = Path(__file__).parent
card = json.loads((here / "card.json").read_text("utf-8"))
model = timm.create_model(f"local-dir:{here}", pretrained=True).eval()
transform = create_transform(**resolve_data_config({}, model=model))
seen = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGBA")
image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
with torch.inference_mode():
    logits = model(transform(image)[None])
probabilities = torch.softmax(logits / card["temperature"], dim=1)[0]
for i in probabilities.argsort(descending=True)[:5].tolist():
    print(f"{probabilities[i]:.6f} {card['classes'][i]}")
"""

_WITH_TRAINER = """import sys
from pathlib import Path

import torch

from trainer import export, model
from understudy import images
from understudy.records import ModelCard

here = Path(__file__).parent
card = ModelCard.model_validate_json((here / "card.json").read_text("utf-8"))
student = model.build(card.student, len(card.classes), dropout=0, drop_path_rate=0)
export.load_weights(student, (here / "weights.safetensors").read_bytes())
served = export.served(student, card.preprocessing, card.temperature)
pixels = images.load(Path(sys.argv[1]).read_bytes(), card.preprocessing)[None].copy()
probabilities = torch.from_numpy(export.predict(served, pixels)[0])
for i in probabilities.argsort(descending=True)[:5].tolist():
    print(f"{probabilities[i]:.6f} {card.classes[i]}")
"""
