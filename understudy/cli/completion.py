"""What the shell completes besides commands and options: names that the service knows.

Whoever presses TAB waits: a service that is away, slow or asks for another key completes nothing, and says nothing.
"""

from collections.abc import Callable, Iterable

import typer

from understudy import recipes as known_recipes
from understudy.client import DEFAULT_URL, Client
from understudy.records import JobKind

#: Longer than any list takes on a machine nearby.
TIMEOUT_S = 1.0

Complete = Callable[[typer.Context, str], list[str]]


def _asking(names: Callable[[Client], Iterable[str]]) -> Complete:
    """Complete with names that a client gets, or with nothing."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        url, key = ctx.params.get("url") or DEFAULT_URL, ctx.params.get("key")
        try:
            with Client(url, key=key, timeout_s=TIMEOUT_S, patience_s=0) as client:
                return [name for name in names(client) if name.startswith(incomplete)]
        except Exception:  # whatever it is, a traceback in the middle of somebody's command line helps nobody
            return []

    return complete


buckets = _asking(lambda client: (bucket.name for bucket in client.buckets()))
versions = _asking(lambda client: (model.id for model in client.models()))
former_champions = _asking(lambda client: dict.fromkeys(entry.version for entry in client.champions()))
generations = _asking(lambda client: (str(turn.number) for turn in client.generations()))
classes = _asking(lambda client: client.champion().card.classes)
sources = _asking(lambda client: (source.id for source in client.sources()))
uploads = _asking(
    lambda client: (job.id for job in client.jobs() if job.kind in (JobKind.INGEST, JobKind.FETCH, JobKind.LABELED))
)


def recipes(incomplete: str) -> list[str]:
    """The recipes of this program; nobody need be asked."""
    return [name for name in known_recipes.RECIPES if name.startswith(incomplete)]
