"""``understudy webhooks``: who is told of what happens, and what they answered."""

import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from understudy.cli.options import AsJson, Key, Url, examples
from understudy.cli.output import console, errors, say, show_json, show_one
from understudy.client import DEFAULT_URL, POLL_S, Client
from understudy.errors import NotReady
from understudy.records import Delivery, JobState, WebhookEvent, WebhookRequest

app = typer.Typer(
    name="webhooks",
    help="Tell other programs what happens: add, list, ping and remove webhooks, see what was delivered.",
    no_args_is_help=True,
)

#: A ping is answered within so long, or its delivery is looked at later.
PING_S = 30.0

Id = Annotated[str, typer.Argument(metavar="ID", help="The webhook, as `understudy webhooks list` shows it.")]


@app.command(
    epilog=examples(
        "understudy webhooks add https://example.com/hook",
        "understudy webhooks add https://example.com/hook --event gate.passed --event alarm",
    )
)
def add(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Where to: https://example.com/hook")],
    event: Annotated[
        list[WebhookEvent] | None,
        typer.Option(help="What of; may be repeated. Default: everything.", show_default=False),
    ] = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Tell an address of events, and print the secret that signs them. It is shown this once."""
    events = tuple(event or WebhookEvent)
    try:
        WebhookRequest(url=address, events=events, description=description)
    except ValidationError as error:
        fault = error.errors()[0]
        raise typer.BadParameter(f"{fault['loc'][0]}: {fault['msg']}") from error
    with Client(url, key=key) as client:
        made = client.add_webhook(address, events=events, description=description)
    if as_json:
        show_json(made)
        return
    _say_secret(made.secret, f"Webhook {made.id} is told of {', '.join(made.events)}.")


@app.command("list", epilog=examples("understudy webhooks list --json"))
def every(as_json: AsJson = False, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Show every webhook but its secret."""
    with Client(url, key=key) as client:
        known = client.webhooks()
    if as_json:
        show_json(known)
        return
    table = Table("id", "address", "events", "description", "made by")
    for each in known:
        is_all = len(each.events) == len(WebhookEvent)
        told = "every event" if is_all else ", ".join(each.events)
        table.add_row(each.id, Text(each.url), told, Text(each.description), each.created_by)
    console.print(table)


@app.command(epilog=examples("understudy webhooks remove 5f0c2a9e1b7d"))
def remove(webhook_id: Id, as_json: AsJson = False, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Tell it nothing more, also not what waits."""
    with Client(url, key=key) as client:
        removed = client.remove_webhook(webhook_id)
    show_one(removed, f"webhook {removed.id} is removed", as_json)


@app.command(epilog=examples("understudy webhooks rotate 5f0c2a9e1b7d"))
def rotate(webhook_id: Id, as_json: AsJson = False, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Print another secret. For a day its requests are signed by the old one too."""
    with Client(url, key=key) as client:
        made = client.rotate_webhook(webhook_id)
    if as_json:
        show_json(made)
        return
    _say_secret(made.secret, f"Webhook {made.id} has another secret; for 24 hours the old one signs too.")


@app.command(epilog=examples("understudy webhooks ping 5f0c2a9e1b7d"))
def ping(webhook_id: Id, as_json: AsJson = False, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Send it a ping, and show what it answers. Exit code 1 if it does not take it."""
    with Client(url, key=key) as client:
        sent = client.ping_webhook(webhook_id)
        deadline = time.monotonic() + PING_S
        while not sent.attempts and time.monotonic() < deadline:
            time.sleep(POLL_S)
            sent = client.webhook_delivery(webhook_id, sent.id)
    if not sent.attempts:
        raise NotReady(f"delivery {sent.id} was not sent within {PING_S:.0f} s; does the reconciler run?")
    show_one(sent, f"delivery {sent.id}: {_outcome(sent)}", as_json)
    if sent.state != JobState.SUCCEEDED:
        raise typer.Exit(1)


@app.command(epilog=examples("understudy webhooks deliveries 5f0c2a9e1b7d --limit 100"))
def deliveries(
    webhook_id: Id,
    limit: Annotated[int, typer.Option(min=1, help="So many, the newest first.")] = 20,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Show what it was told, or is to be, and what it answered."""
    with Client(url, key=key) as client:
        found = [each for each, _ in zip(client.webhook_deliveries(webhook_id), range(limit), strict=False)]
    if as_json:
        show_json(found)
        return
    table = Table("delivery", "event", "subject", "state", "attempts", "at", "outcome")
    for each in found:
        at = datetime.fromtimestamp(each.created_at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(
            str(each.id), each.event, each.subject, each.state, str(each.num_attempts), at, Text(_outcome(each))
        )
    console.print(table)


@app.command(epilog=examples("understudy webhooks redeliver 5f0c2a9e1b7d 17"))
def redeliver(
    webhook_id: Id,
    delivery_id: Annotated[
        int, typer.Argument(metavar="DELIVERY", help="As `understudy webhooks deliveries` shows it.")
    ],
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Send a delivery again, under the same id; one that waits for its next attempt is sent now."""
    with Client(url, key=key) as client:
        sent = client.redeliver(webhook_id, delivery_id)
    show_one(sent, f"delivery {sent.id} of {sent.event} will be sent again", as_json)


def _outcome(sent: Delivery) -> str:
    if not sent.attempts:
        return ""
    last = sent.attempts[-1]
    return last.problem or f"answered {last.status} in {last.ms} ms"


def _say_secret(secret: str, line: str) -> None:
    """The secret alone on standard output, so that a script can take it from there."""
    say(secret)
    say(f"{line} Keep the secret now: it will never be shown again.", errors)
