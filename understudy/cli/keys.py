"""``understudy keys``: make, list and revoke API keys, directly in the catalog.

Not over HTTP: before there is a first key, nobody could ask. Whoever may write the catalog may do this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from understudy import settings
from understudy.cli.options import AsJson, examples
from understudy.cli.output import console, errors, say, show_json, show_one
from understudy.errors import NotFound
from understudy.records import ApiKey, KeyScope
from understudy.settings import Settings

if TYPE_CHECKING:
    from understudy.catalog import Catalog

app = typer.Typer(
    name="keys",
    help="Make, list and revoke the API keys of a service.",
    no_args_is_help=True,
    epilog="Keys are asked for when the service binds any other address than loopback; UNDERSTUDY_KEYS=required or "
    "=off says otherwise. A change counts after about a second.",
)

Data = Annotated[
    Path | None,
    typer.Option(
        help="Data folder, as of `understudy up`. Default: UNDERSTUDY_CATALOG_URL, or else UNDERSTUDY_DATA, or else "
        "./understudy-data.",
        show_default=False,
    ),
]


@app.command(
    epilog=examples(
        "understudy keys create --name laptop --scope classify --scope ingest",
        "understudy keys create --name operator --scope admin --data /srv/photos --json",
    )
)
def create(
    name: Annotated[str, typer.Option(help="Whose it is, for people: laptop, shop-frontend, ...")],
    scope: Annotated[
        list[KeyScope],
        typer.Option(help="What it opens: classify, ingest, or admin for everything. Reading is open to every key."),
    ],
    rate_limit: Annotated[
        float | None,
        typer.Option(min=0, help="Most requests a second; 0: no limit. Default: the service's UNDERSTUDY_RATE_LIMIT."),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. It is shown this once: only a hash of it is kept."""
    from understudy.catalog import keys  # heavy: see ``understudy.cli.bench``

    with _catalog(data) as catalog:
        known, key = keys.create(catalog, name=name, scopes=scope, rate_limit=rate_limit)
    if as_json:
        show_json(known.model_dump(mode="json") | {"key": key})
        return
    # The key alone on standard output, so that a script can take it from there.
    say(key)
    say(
        f"Key {known.id} ({known.name}) opens: {', '.join(known.scopes)}. Keep it now: it will never be shown again. "
        f"`understudy keys revoke {known.id}` ends it.",
        errors,
    )


@app.command("list", epilog=examples("understudy keys list", "understudy keys list --json"))
def every(data: Data = None, as_json: AsJson = False) -> None:
    """Show every key but its secret: id, name, scopes, rate limit, and when it was made and revoked."""
    from understudy.catalog import keys

    with _catalog(data, must_exist=True) as catalog:
        known = keys.every(catalog)
    if as_json:
        show_json(known)
        return
    table = Table("id", "name", "scopes", "limit/s", "made", "revoked")
    for key in known:
        # Text, because a name may look like markup.
        table.add_row(key.id, Text(key.name), " ".join(key.scopes), _rate(key), _when(key.created_at), _revoked(key))
    console.print(table)


@app.command(epilog=examples("understudy keys revoke 0123456789ab"))
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the key, as `understudy keys list` shows it.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Let a key open nothing any more. Running services learn of it within about a second."""
    from understudy.catalog import keys

    with _catalog(data, must_exist=True) as catalog:
        known = keys.revoke(catalog, key_id)
    show_one(known, f"Key {known.id} ({known.name}) is revoked.", as_json)


@contextmanager
def _catalog(data: Path | None, *, must_exist: bool = False) -> Iterator["Catalog"]:
    """The catalog of a data folder, or the one that the environment names."""
    from understudy.catalog.database import opened

    chosen = settings.read(Settings) if data is None else settings.read(Settings, data=data, catalog_url="")
    file = chosen.data / "catalog.db"
    if must_exist and chosen.catalog_url == f"sqlite:///{file}" and not file.exists():
        raise NotFound(f"there is no catalog {file}; name its folder with --data, or make a first key")
    with opened(chosen.catalog_url) as catalog:
        yield catalog


def _rate(key: ApiKey) -> str:
    if key.rate_limit is None:
        return "default"
    return f"{key.rate_limit:g}" if key.rate_limit else "no limit"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _revoked(key: ApiKey) -> str:
    return "" if key.revoked_at is None else _when(key.revoked_at)
