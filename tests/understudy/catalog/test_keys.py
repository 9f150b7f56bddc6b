"""The catalog of API keys, on both engines."""

import pytest
from sqlalchemy import select

from understudy.catalog import Catalog, keys
from understudy.catalog.tables import ApiKeyRow
from understudy.errors import NotFound, Refused
from understudy.keys import read
from understudy.records import KeyScope


def test_a_key_is_made_and_listed_with_what_is_known_of_it(catalog: Catalog):
    """Name, scopes in a fixed order, rate limit; the newest first."""
    first, _ = keys.create(catalog, name="laptop", scopes=[KeyScope.INGEST, KeyScope.CLASSIFY, KeyScope.INGEST])
    second, _ = keys.create(catalog, name="shop", scopes=[KeyScope.ADMIN], rate_limit=2.5)

    assert keys.every(catalog) == [second, first]
    assert (first.name, first.scopes, first.rate_limit) == ("laptop", (KeyScope.CLASSIFY, KeyScope.INGEST), None)
    assert (second.rate_limit, second.revoked_at) == (2.5, None)
    assert second.created_at >= first.created_at > 1.6e9


def test_the_secret_is_not_in_the_catalog(catalog: Catalog):
    """Only its hash is: whoever steals the catalog has no key."""
    known, key = keys.create(catalog, name="laptop", scopes=[KeyScope.CLASSIFY])

    with catalog.read() as session:
        row = session.scalars(select(ApiKeyRow)).one()
        stored = " ".join(str(getattr(row, column.key)) for column in ApiKeyRow.__table__.columns)
    credential = read(key.encode())
    assert credential.id == known.id
    assert credential.digest.hex() in stored
    assert credential.secret.decode() not in stored


def test_a_held_key_has_the_digest_of_its_secret_and_hides_it(catalog: Catalog):
    """What the service checks against, and does not print."""
    known, key = keys.create(catalog, name="laptop", scopes=[KeyScope.CLASSIFY])

    held = keys.held_keys(catalog)

    assert [one.key for one in held] == [known]
    assert held[0].digest == read(key.encode()).digest
    assert held[0].digest.hex() not in repr(held)
    assert repr(held[0].digest) not in repr(held)


def test_a_revoked_key_stays_with_the_time_of_its_end(catalog: Catalog):
    """Revoking it again does not move that time, and harms no other key."""
    known, _ = keys.create(catalog, name="laptop", scopes=[KeyScope.CLASSIFY])
    other, _ = keys.create(catalog, name="shop", scopes=[KeyScope.CLASSIFY])

    revoked = keys.revoke(catalog, known.id)

    assert revoked.revoked_at is not None
    assert revoked.revoked_at >= known.created_at
    assert keys.revoke(catalog, known.id) == revoked
    assert keys.every(catalog) == [other, revoked]


def test_an_unknown_id_is_not_found(catalog: Catalog):
    """And says how to find the ids that there are."""
    with pytest.raises(NotFound, match="`understudy keys list`"):
        keys.revoke(catalog, "nobody")


@pytest.mark.parametrize(
    ("name", "scopes", "rate_limit"),
    [
        ("", ["admin"], None),
        ("x" * 201, ["admin"], None),
        ("two\nlines", ["admin"], None),
        ("laptop", [], None),
        ("laptop", ["admin"], -1.0),
        ("laptop", ["admin"], float("nan")),
        ("laptop", ["admin"], float("inf")),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(catalog: Catalog, name: str, scopes: list[str], rate_limit: float | None):
    """With the value seen and what to give; nothing is written."""
    with pytest.raises(Refused) as caught:
        keys.create(catalog, name=name, scopes=[KeyScope(scope) for scope in scopes], rate_limit=rate_limit)

    assert caught.value.code == "key_refused"
    assert keys.every(catalog) == []


def test_a_scope_of_a_newer_program_opens_nothing_and_breaks_nothing(catalog: Catalog):
    """The key keeps the scopes that are known here; the others are listed as ever."""
    known, _ = keys.create(catalog, name="laptop", scopes=[KeyScope.CLASSIFY])
    with catalog.write() as session:
        session.get_one(ApiKeyRow, known.id).scopes = "classify fly"

    assert keys.every(catalog) == [known]
