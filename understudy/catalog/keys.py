"""API keys: made once, listed without their secrets, revoked for good and never deleted.

A revoked key stays, so that whoever still uses it is told so rather than that it never was.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from sqlalchemy import select

from understudy import keys
from understudy.catalog.database import Catalog, now
from understudy.catalog.tables import ApiKeyRow
from understudy.errors import NotFound, Refused
from understudy.records import ApiKey, KeyScope

MAX_NAME_CHARS = 200
_SCOPES = frozenset(KeyScope)


@dataclass(frozen=True)
class HeldKey:
    """A key as the service checks it: what is known of it, and the SHA-256 of its secret."""

    key: ApiKey
    digest: bytes = field(repr=False)  # (32,) bytes


def create(
    catalog: Catalog, *, name: str, scopes: Collection[KeyScope], rate_limit: float | None = None
) -> tuple[ApiKey, str]:
    """Make a key; gives what is known of it, and the key itself, which nobody can get again.

    ``rate_limit`` is in requests a second; 0: none, None: the service's default. Raises Refused.
    """
    if not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise Refused(
            f"name={name[:MAX_NAME_CHARS]!r} has {len(name)} characters; give 1 to {MAX_NAME_CHARS} printable ones",
            code="key_refused",
        )
    if not scopes:
        raise Refused(f"a key without a scope opens nothing; give {', '.join(KeyScope)}", code="key_refused")
    if rate_limit is not None and not 0 <= rate_limit < float("inf"):
        raise Refused(f"rate_limit={rate_limit} is no number of requests a second; 0 means none", code="key_refused")
    made = keys.generate()
    row = ApiKeyRow(
        id=made.id,
        name=name,
        scopes=" ".join(sorted(set(scopes))),
        digest=made.digest.hex(),
        rate_limit=rate_limit,
        created_at=now(),
    )
    with catalog.write() as session:
        session.add(row)
        session.flush()
        session.refresh(row)
        return _known(row), keys.write(made)


def revoke(catalog: Catalog, key_id: str) -> ApiKey:
    """Let a key open nothing any more; a second time changes nothing. Raises NotFound."""
    with catalog.write() as session:
        row = session.get(ApiKeyRow, key_id)
        if row is None:
            raise NotFound(f"there is no key with the id {key_id[:50]!r}; `understudy keys list` shows them all")
        if row.revoked_at is None:
            row.revoked_at = now()
            session.flush()
            session.refresh(row)
        return _known(row)


def every(catalog: Catalog) -> list[ApiKey]:
    """All keys, the revoked ones too, the newest first."""
    return [held.key for held in held_keys(catalog)]


def held_keys(catalog: Catalog) -> list[HeldKey]:
    """All keys with what the service checks them by, the newest first."""
    with catalog.read() as session:
        rows = session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.created_at.desc(), ApiKeyRow.id))
        return [HeldKey(_known(row), bytes.fromhex(row.digest)) for row in rows]


def _known(row: ApiKeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        # A scope that a newer program gave opens nothing here, and makes no other key fail.
        scopes=tuple(KeyScope(scope) for scope in row.scopes.split() if scope in _SCOPES),
        rate_limit=row.rate_limit,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
