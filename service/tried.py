"""``python -m service.tried``: loads the model that it is sent, asks it about the image that comes with it, and lets it go.

It is sent a card, an artifact, an encoded image and how many classes to answer; it knows no catalog and no store.
"""

import gc
import json
import time

from service.apart import Answer, serve
from understudy import engine, images
from understudy.errors import ArtifactRefused, ImageRefused, UnderstudyError
from understudy.records import ClassProbability, ModelCard, Prediction
from understudy.work_records import Tried

#: What the program may take: the largest student and the largest image, several times over.
MAX_ADDRESS_BYTES = 8 * 2**30
#: The kinds of its answers: what was said, that the image was refused, that the model was.
ANSWER, IMAGE, MODEL = b"a", b"i", b"m"


def _asked(parts: list[bytes]) -> Answer:
    card, artifact, data, top_k = parts
    try:
        return ANSWER, _tried(
            ModelCard.model_validate_json(card), artifact, data, int(top_k)
        ).model_dump_json().encode()
    except ImageRefused as refused:
        return IMAGE, _problem(refused)
    except ArtifactRefused as refused:
        return MODEL, _problem(refused)
    finally:
        gc.collect()


def _tried(card: ModelCard, artifact: bytes, data: bytes, top_k: int) -> Tried:
    began = time.perf_counter()
    loaded = engine.load(artifact, card, provider="cpu", threads=1)
    ready = time.perf_counter()
    row = loaded.predict(images.load(data, card.preprocessing)[None])[0].clip(0.0, 1.0)
    answered = time.perf_counter()
    best = (-row).argsort(kind="stable")[:top_k].tolist()
    classes = tuple(ClassProbability(label=card.classes[i], probability=float(row[i])) for i in best)
    return Tried(
        model=card.version,
        prediction=Prediction(label=classes[0].label, probability=classes[0].probability, classes=classes),
        load_ms=1000 * (ready - began),
        answer_ms=1000 * (answered - ready),
    )


def _problem(error: UnderstudyError) -> bytes:
    return json.dumps({"code": error.code, "detail": str(error)}).encode()


if __name__ == "__main__":
    serve(_asked, max_address_bytes=MAX_ADDRESS_BYTES)
