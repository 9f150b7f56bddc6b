"""``understudy deploy``, ``deployments``, ``undeploy``, ``rollback`` and ``promote``: which model answers live traffic."""

from typing import Annotated

import typer
from rich.table import Table

from understudy.cli import completion
from understudy.cli.following import until_serving
from understudy.cli.options import AsJson, Key, Url, asked, examples
from understudy.cli.output import console, show_json, show_one
from understudy.client import DEFAULT_URL, Client
from understudy.errors import Conflict
from understudy.records import (
    Deployment,
    DeploymentEnd,
    DeploymentKind,
    DeploymentRequest,
    DeploymentState,
    Limits,
    Override,
    Rollback,
)

app = typer.Typer()

DEFAULT = Limits()
BOTH = "latency, errors and images: challenger / champion"


@app.command(
    epilog=examples(
        "understudy deploy g0003-8f2c1a --shadow --share 0.5",
        "understudy deploy g0003-8f2c1a --canary --share 0.1 --min-images 1000 --json",
    )
)
def deploy(
    version: Annotated[
        str, typer.Argument(help="The challenger, e.g. g0003-8f2c1a.", autocompletion=completion.versions)
    ],
    is_canary: Annotated[
        bool | None,
        typer.Option("--canary/--shadow", help="Answer its share of the requests, or only compare in secret."),
    ] = None,
    share: Annotated[float, typer.Option(help="Of the requests, drawn by chance: above 0, at most 1.")] = 0.1,
    min_images: Annotated[int, typer.Option(help="Judge it after so many images.")] = DEFAULT.min_images,
    max_error_rate_increase: Annotated[
        float, typer.Option(help="Share of failed requests that it may have beyond the champion's.")
    ] = DEFAULT.max_error_rate_increase,
    max_latency_ratio: Annotated[
        float, typer.Option(help="Mean latency that a canary may have, as a multiple of the champion's.")
    ] = DEFAULT.max_latency_ratio,
    min_agreement: Annotated[
        float, typer.Option(help="Share of compared images that both must call the same; 0: any.")
    ] = DEFAULT.min_agreement,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Let a challenger see live traffic: as a shadow, or as a canary that answers a share of it.

    One at a time. It is withdrawn by itself when it is worse than a limit allows; see `understudy deployments`.
    """
    if is_canary is None:
        raise typer.BadParameter("say --shadow (its answers are only compared) or --canary (they are sent)")
    limits = {
        "min_images": min_images,
        "max_error_rate_increase": max_error_rate_increase,
        "max_latency_ratio": max_latency_ratio,
        "min_agreement": min_agreement,
    }
    kind = DeploymentKind.CANARY if is_canary else DeploymentKind.SHADOW
    request = asked(DeploymentRequest, version=version, kind=kind, share=share, limits=limits)
    with Client(url, key=key) as client:
        made = client.deploy(request)
    show_one(
        made, f"deployment {made.id}: {made.version} is a {made.kind} with {made.share:.3g} of the requests", as_json
    )


@app.command(epilog=examples("understudy deployments", "understudy deployments --json"))
def deployments(
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Show the challengers on live traffic, now and before: agreement, latency, errors, and why each ended."""
    with Client(url, key=key) as client:
        made = client.deployments()
    if as_json:
        show_json(made)
        return
    table = Table(
        "challenger", "kind", "share", "state", "agreement", "latency", "errors", "images", "reason", caption=BOTH
    )
    for each in made:
        table.add_row(*_row(each))
    console.print(table)


@app.command(epilog=examples('understudy undeploy --reason "slow on the old machine"'))
def undeploy(
    reason: Annotated[str, typer.Option(help="Why; it is kept with the deployment.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Take the challenger off live traffic: the champion answers everything again within a second or so."""
    request = asked(DeploymentEnd, reason=reason)
    with Client(url, key=key) as client:
        active = [each for each in client.deployments() if each.state == DeploymentState.ACTIVE]
        if not active:
            raise Conflict("no challenger is on live traffic; `understudy deployments` shows those that were")
        ended = client.end_deployment(active[0].id, reason=request.reason)
    show_one(ended, f"deployment {ended.id} of {ended.version} has ended", as_json)


@app.command(
    epilog=examples(
        'understudy rollback --reason "it calls every cat a dog"',
        'understudy rollback g0001-52b0c8 --reason "the one before the new camera" --json',
    )
)
def rollback(
    reason: Annotated[str, typer.Option(help="Why; it is kept in the champion's history.")],
    version: Annotated[
        str | None,
        typer.Argument(
            help="A former champion; default: the one that the champion took over from.",
            show_default=False,
            autocompletion=completion.former_champions,
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make a former champion serve again. It takes seconds; without a version, twice goes back twice."""
    request = asked(Rollback, version=version, reason=reason)
    with Client(url, key=key) as client:
        entry = client.rollback(request.version, reason=request.reason)
        until_serving(client, entry.version)
    show_one(entry, f"{entry.version} serves again", as_json)


@app.command(epilog=examples('understudy promote g0003-8f2c1a --reason "better where it matters"'))
def promote(
    version: Annotated[
        str,
        typer.Argument(help="A version that the gate refused, e.g. g0003-8f2c1a.", autocompletion=completion.versions),
    ],
    reason: Annotated[str, typer.Option(help="Why; it is kept in the champion's history.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make a refused model serve, against the gate's verdict. See `understudy gate` for that first."""
    request = asked(Override, reason=reason)
    with Client(url, key=key) as client:
        entry = client.promote(version, reason=request.reason)
        until_serving(client, entry.version)
    show_one(entry, f"{entry.version} serves, against the gate's verdict", as_json)


def _row(made: Deployment) -> tuple[str, ...]:
    counts = made.counts
    ours, theirs = made.challenger_latency_ms, made.champion_latency_ms
    return (
        made.version,
        made.kind,
        f"{made.share:.3g}",
        made.state,
        f"{made.agreement:.1%}" if made.agreement is not None else "",
        f"{ours:.3g} / {theirs:.3g} ms" if ours is not None and theirs is not None else "",
        f"{counts.challenger_errors:,} / {counts.champion_errors:,}",
        f"{counts.challenger_images:,} / {counts.champion_images:,}",
        made.reason or "",
    )
