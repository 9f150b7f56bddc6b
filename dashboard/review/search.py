"""A field for a class: a beginning will do, and a class that nobody knows is one only if that is said."""

from collections.abc import Callable, Sequence

from nicegui import ui
from nicegui.events import GenericEventArguments

from dashboard import frame
from dashboard.review.feed import MAX_CLASS_NAME, matches, meant

#: Takes the class and whether it is a new one.
Chosen = Callable[[str, bool], None]
#: An Enter that a person's input method uses for itself is none of ours.
_ON_ENTER = "(event) => { if (event.key === 'Enter' && !event.isComposing) { event.preventDefault(); emit(event.target.value); } }"


def search(classes: Sequence[str], chosen: Chosen, *, label: str = "Another class", key: str = "c") -> None:
    """The field, and below it what its words may mean."""
    with frame.element("label", "us-search", data_key=key):
        frame.text(label, "us-soft")
        keycap(key)
        field = frame.element(
            "input",
            type="text",
            autocomplete="off",
            spellcheck="false",
            maxlength=MAX_CLASS_NAME,
            placeholder="a beginning",
        )
    found = frame.element("div", "us-found", aria_live="polite")

    shown = ""

    def suggest(said: str) -> None:
        nonlocal shown
        if said != shown:  # what somebody is about to press stays
            shown = said
            _suggest(found, said, classes, chosen)

    def typed(event: GenericEventArguments) -> None:
        suggest(str(event.args))

    def entered(event: GenericEventArguments) -> None:
        name = meant(str(event.args), classes)
        if name is None:
            suggest(str(event.args))
        else:
            chosen(name, False)

    field.on("input", typed, js_handler="(event) => emit(event.target.value)")
    field.on("keydown", entered, js_handler=_ON_ENTER)


def keycap(key: str) -> None:
    """The key that does the same."""
    frame.text(key, "us-key", "kbd").props["aria-hidden"] = "true"


def _suggest(place: ui.element, said: str, classes: Sequence[str], chosen: Chosen) -> None:
    place.clear()
    if not (word := said.strip()):
        return
    with place:
        for name in matches(said, classes):
            with frame.element("button", "us-choice us-rv-small", type="button") as button:
                frame.text(name)
            button.on("click", lambda name=name: chosen(name, False))
        if word in classes:
            return
        with frame.element("button", "us-choice us-rv-small us-new", type="button") as button:
            frame.text(f"“{word}” is a new class")
        button.on("click", lambda: chosen(word, True))
        button.props["title"] = (
            "It is written down and no label of the image is used, but no model can learn the class."
        )
