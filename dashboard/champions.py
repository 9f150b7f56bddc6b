"""Who serves: promoting against the verdict, rolling back, and the history of both. Every change asks for a reason."""

from collections.abc import Callable, Sequence

from nicegui import ui

from dashboard import frame, words
from dashboard.frame import View
from understudy.client import Client
from understudy.records import Championship, Deployment

#: As the service takes them.
MAX_REASON = 1000


def roll_back_button(view: View, version: str, *, words_on_it: str = "") -> None:
    """Make a former champion serve again."""
    on_it = words_on_it or "Serve again"
    said = f"Every service process serves {version} within seconds; the reason is kept in the history."
    _button(
        view,
        on_it,
        f"Roll back to {version}?",
        said,
        lambda reason: lambda client: client.rollback(version, reason=reason),
        f"{version} is the champion again",
        icon="undo",
        label=f"{on_it}: {version}",
    )


def promote_button(view: View, version: str) -> None:
    """Promote what the gate refused."""
    said = (
        f"The gate did not find {version} proved better. Its verdict stays on the record, beside your reason; "
        f"every service process serves {version} within seconds."
    )
    _button(
        view,
        "Promote against the verdict",
        f"Promote {version} against the verdict?",
        said,
        lambda reason: lambda client: client.promote(version, reason=reason),
        f"{version} is the champion",
        icon="gavel",
    )


def end_button(view: View, deployment: Deployment) -> None:
    """Take a challenger off live traffic."""
    _button(
        view,
        "End",
        f"Take {deployment.version} off live traffic?",
        f"It is a {deployment.kind} beside {deployment.champion}; what was counted is kept, with your reason.",
        lambda reason: lambda client: client.end_deployment(deployment.id, reason=reason),
        f"{deployment.version} is off live traffic",
        icon="stop",
        label=f"End the {deployment.kind} of {deployment.version}",
    )


def _button(
    view: View,
    on_it: str,
    title: str,
    said: str,
    question: Callable[[str], Callable[[Client], object]],
    done: str,
    *,
    icon: str,
    label: str = "",
) -> None:
    async def ask() -> None:
        # Not where the button is: what is live there may be drawn anew while somebody writes.
        with ui.context.client.content:
            reason = await reason_for(title, said, on_it)
            if reason:
                await frame.act(view, question(reason), done)

    button = ui.button(on_it, icon=icon, on_click=ask).props("outline")
    if label:
        button.props["aria-label"] = label


async def reason_for(title: str, said: str, on_it: str) -> str | None:
    """Ask for confirmation and a reason. None: it was thought better of."""
    with ui.dialog() as dialog, ui.card().classes("us-dialog"):
        frame.text(title, tag="h2")
        frame.text(said, "us-soft", "p")
        written = ui.textarea("Reason").props(f"outlined autogrow autofocus maxlength={MAX_REASON}")
        with frame.element("div", "us-row us-end"):
            ui.button("Cancel", on_click=lambda: dialog.submit(None)).props("flat")
            sure = ui.button(on_it, on_click=lambda: dialog.submit(written.value.strip()))
            sure.bind_enabled_from(written, "value", lambda words: bool(words and words.strip()))
    answer: str | None = await dialog
    dialog.delete()
    return answer or None


def history(view: View, champions: Sequence[Championship], *, most: int = 50) -> None:
    """Every champion that there was, the newest first; those that served before may serve again."""
    with frame.table("", "version", "since", "by", "why", ""):
        for each in champions[:most]:
            with frame.row():
                with frame.cell("us-soft"):
                    frame.text(each.sequence)
                with frame.cell("us-mono us-nowrap"):
                    frame.link(each.version, f"/compare?challenger={each.version}")
                with frame.cell("us-nowrap"):
                    frame.text(words.ago(each.at)).props["title"] = words.moment(each.at)
                with frame.cell("us-nowrap"):
                    frame.text(each.actor)
                with frame.cell("us-soft us-sentence"):
                    frame.text(each.reason)
                with frame.cell("us-right us-nowrap"):
                    if each.sequence == champions[0].sequence:
                        frame.badge("serves", "champion")
                    elif each.version != champions[0].version and _is_newest_of(each, champions):
                        roll_back_button(view, each.version)


def _is_newest_of(one: Championship, champions: Sequence[Championship]) -> bool:
    """One button a version is enough."""
    return next(each for each in champions if each.version == one.version).sequence == one.sequence
