"""Try it: one image, and what the champion and any other version say of it, side by side."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from nicegui import ui

from dashboard import frame, words
from dashboard.frame import Page, View
from dashboard.sending import MAX_IMAGE_BYTES
from understudy.client import Client, RequestFailed
from understudy.errors import UnderstudyError
from understudy.records import ClassProbability, ModelVersion, Prediction

#: Classes of one answer that are drawn.
CLASSES = 8
#: Versions beside the champion: each is loaded for the question.
OTHERS, MAX_OTHERS = 2, 6
#: Versions to choose from.
LISTED = 12


@dataclass(frozen=True)
class Answer:
    """What one version said, and how long that took."""

    version: str
    prediction: Prediction
    took: str


async def build(view: View) -> None:
    """The page."""
    frame.heading("Try it", "One image, and what each version says of it.")
    with frame.element("div", "us-try"):
        with frame.panel():
            data, shown = await _image(view)
            _drop()
        with frame.element("div", "us-answers"):
            models = await view.ask(Client.models)
            if data is None:
                frame.nothing(shown or "Drop an image, choose one, or paste it: the answers stand here.")
                return
            await _answers(view, data, models)


async def _image(view: View) -> tuple[bytes | None, str]:
    """The image that the address names, drawn; None: it names none, and a sentence if it cannot be had."""
    if sha256 := view.query.get("sha256"):
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            return None, "An image is named by its SHA-256: 64 digits and letters from a to f."
        try:
            data = await view.ask(lambda client: client.picture(sha256))
        except RequestFailed as error:
            return None, str(error)
        frame.thumbnail(sha256, size=640).classes("us-tried")
        frame.text(f"image {sha256[:12]}, ingested", "us-soft us-small", "p")
        return data, ""
    if token := view.query.get("image"):
        held = view.system.held.find(token)
        if held is None:
            return None, "That image is held no more. Drop it again."
        frame.element("img", "us-tried", src=f"/try/picture/{token}", alt="the image that was sent")
        frame.text(f"{words.num_bytes(len(held))}, held for a while and ingested nowhere", "us-soft us-small", "p")
        return held, ""
    return None, ""


def _drop() -> None:
    form = frame.element("form", "us-drop", data_send="/try/send", data_next="/try?image=", data_single="1")
    form.props["data-paste"] = "1"
    with form, frame.element("div", "us-zone"):
        ui.icon("image_search").props["aria-hidden"] = "true"
        with frame.element("p"):
            frame.text("Drop or paste an image, or ")
            with frame.element("label", "us-choose"):
                frame.element("input", type="file", accept="image/*", aria_label="Choose an image")
                frame.text("choose one")
        frame.text(f"At most {words.num_bytes(MAX_IMAGE_BYTES)}.", "us-soft us-small", "p")
        frame.element("p", "us-sent-words", role="status")
        with frame.element("div", "us-bar us-sent"):
            frame.element("div")


# -- the answers ------------------------------------------------------------------------------------


async def _answers(view: View, data: bytes, models: Sequence[ModelVersion]) -> None:
    """The champion's at once; each other's when its version has been loaded."""
    by_id = {model.id: model for model in models}
    try:
        first = await view.ask(lambda client: _served(client, data))
    except UnderstudyError as error:
        frame.problem(error)
        return
    others = chosen(view.query.get("with"), models, first.version)
    _choices(view, models, first.version, others)
    with frame.element("div", "us-grid"):
        with frame.panel(classes="us-answer us-answers-now"):
            _head(first.version, by_id, "champion")
            _bars(first, first.prediction)
        for version in others:
            with frame.panel(classes="us-answer"):
                _head(version, by_id)
                place = frame.element("div", "us-live")
            with place:
                frame.text("is being loaded …", "us-soft", "p")
            ui.timer(0.05, partial(_fill, view, place, version, data, first), once=True)


async def _fill(view: View, place: ui.element, version: str, data: bytes, first: Answer) -> None:
    try:
        answer = await view.ask(lambda client: _asked(client, version, data))
    except UnderstudyError as error:
        place.clear()
        with place:
            frame.problem(error)
        return
    place.clear()
    with place:
        if answer.prediction.label != first.prediction.label:
            frame.badge(f"says otherwise: {answer.prediction.label}", "busy")
        _bars(answer, first.prediction)


def _served(client: Client, data: bytes) -> Answer:
    began = time.perf_counter()
    said = client.classify(data, top_k=1000)
    took = 1000 * (time.perf_counter() - began)
    return Answer(said.model, said.predictions[0], f"answered in {took:.0f} ms, the way there and back included")


def _asked(client: Client, version: str, data: bytes) -> Answer:
    said = client.classify_with(version, data, top_k=1000)
    took = f"answered in {said.answer_ms:.0f} ms, after {said.load_ms:.0f} ms of loading"
    return Answer(said.model, said.prediction, took)


def chosen(asked: str | None, models: Sequence[ModelVersion], champion: str) -> list[str]:
    """The versions beside the champion: those that the address names, or the last that were promoted before."""
    known = [model.id for model in models if model.id != champion]
    if asked is not None:
        return [version for version in known if version in asked.split(",")][:MAX_OTHERS]
    promoted = [model.id for model in models if model.id != champion and model.state == "promoted"]
    return promoted[:OTHERS]


def _choices(view: View, models: Sequence[ModelVersion], champion: str, others: Sequence[str]) -> None:
    known = [model.id for model in models if model.id != champion][:LISTED]
    if not known:
        return
    with frame.element("div", "us-row us-chips", role="group", aria_label="Versions beside the champion"):
        frame.text("Beside the champion:", "us-soft")
        for version in known:
            is_on = version in others
            after = [each for each in others if each != version] + ([] if is_on else [version])
            here = {"aria_current": "true"} if is_on else {}
            with frame.element("a", "us-chip", href=view.link(**{"with": ",".join(after) or "none"}), **here):
                frame.text(version)


def _head(version: str, models: dict[str, ModelVersion], role: str = "") -> None:
    with frame.element("div", "us-row us-apart"):
        frame.text(version, tag="h2")
        if role:
            frame.badge(role, "champion")
    if model := models.get(version):
        accuracy = f", {words.percent(model.card.evaluation.accuracy)} on the holdout"
        frame.text(f"generation {model.generation}, {model.student}{accuracy}", "us-soft us-small", "p")


def drawn(prediction: Prediction, order: Prediction) -> list[ClassProbability]:
    """The classes of an answer that are drawn: in the order of another's, with its own first class among them."""
    names = [each.label for each in order.classes[:CLASSES]]
    if prediction.label is not None and prediction.label not in names:
        names = [*names[: CLASSES - 1], prediction.label]
    said = {each.label: each for each in prediction.classes}
    return [said[name] for name in names if name in said]


def _bars(answer: Answer, order: Prediction) -> None:
    with frame.element("dl", "us-bars"):
        for each in drawn(answer.prediction, order):
            best = "us-best" if each.label == answer.prediction.label else ""
            with frame.element("div", best):
                frame.text(each.label, tag="dt")
                with frame.element("dd"):
                    with frame.element("div", "us-bar"):
                        ui.element("div").style(f"width: {100 * each.probability:.2f}%")
                    frame.text(words.percent(each.probability))
    frame.text(answer.took, "us-soft us-small", "p")


PAGE = Page("/try", "Try it", build, icon="science")
