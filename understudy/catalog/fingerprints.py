"""The fingerprints of all images: which of them an image resembles, and which must not train for that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, func, select, union_all, update
from sqlalchemy.orm import Session

from understudy import fingerprints
from understudy.catalog.database import Catalog, insert_or_ignore
from understudy.catalog.tables import FingerprintRow, LabeledImageRow

#: Rows that are compared for one batch. More share a band only where a bucket is full of pictures that are nearly
#: copies; then not every resemblance is marked. Of the holdout, all are compared.
MAX_COMPARED = 5000
#: A row has eight values, and SQLite takes at most 32,766 in a statement; PostgreSQL plans long lists slowly.
ROWS_PER_STATEMENT = 1000

#: Any constant will do: it names the lock among PostgreSQL's advisory locks.
SEALING_LOCK = 0x73656C6E

_BANDS = (FingerprintRow.band_0, FingerprintRow.band_1, FingerprintRow.band_2, FingerprintRow.band_3)


# Built once: to build and compare a statement of some hundred values takes longer than to run it. An image that shares
# several bands comes several times, which costs less than joining what was found with the table once more.
_FOUND = [
    select(FingerprintRow.sha256, FingerprintRow.fingerprint).where(band.in_(bindparam(band.key, expanding=True)))
    for band in _BANDS
]
_OF_ALL = union_all(*_FOUND).limit(MAX_COMPARED)
_IS_FROZEN = (LabeledImageRow.sha256 == FingerprintRow.sha256) & (LabeledImageRow.split == "holdout")
_OF_HOLDOUT = union_all(*(found.join(LabeledImageRow, _IS_FROZEN) for found in _FOUND))


@dataclass(frozen=True)
class Resemblance:
    """An image in the catalog that another one resembles."""

    sha256: str
    distance: int  #: signs that differ


def resembled(catalog: Catalog, images: Mapping[str, bytes]) -> dict[str, list[Resemblance]]:
    """For each image (sha-256 to fingerprint) the others in the catalog that it resembles, the nearest first."""
    with catalog.read() as session:
        found = _resembled(session, images, is_holdout=True)
        for sha256, others in _resembled(session, images).items():
            frozen = {each.sha256 for each in found.get(sha256, [])}
            found.setdefault(sha256, []).extend(each for each in others if each.sha256 not in frozen)
    for resemblances in found.values():
        resemblances.sort(key=lambda each: (each.distance, each.sha256))
    return found


def _resembled(
    session: Session, images: Mapping[str, bytes], *, is_holdout: bool = False
) -> dict[str, list[Resemblance]]:
    asked = fingerprints.Fingerprints(images.items())
    found: dict[str, list[Resemblance]] = {}
    for sha256, fingerprint in _sharing_a_band(session, images, is_holdout=is_holdout):
        for match in asked.all(sha256, fingerprint):
            found.setdefault(match.sha256, []).append(Resemblance(sha256, match.distance))
    for resemblances in found.values():
        resemblances.sort(key=lambda each: (each.distance, each.sha256))
    return found


def _sharing_a_band(session: Session, images: Mapping[str, bytes], *, is_holdout: bool) -> list[tuple[str, bytes]]:
    """What the indexes find: a few times as many as resemble."""
    bands = [fingerprints.bands(fingerprint) for fingerprint in images.values() if fingerprint]
    found: dict[str, bytes] = {}
    for at in range(0, len(bands), ROWS_PER_STATEMENT):
        some = zip(*bands[at : at + ROWS_PER_STATEMENT], strict=True)
        wanted = {column.key: sorted(set(values)) for column, values in zip(_BANDS, some, strict=True)}
        rows = session.execute(_OF_HOLDOUT if is_holdout else _OF_ALL, wanted)
        found.update((sha256, fingerprint) for sha256, fingerprint in rows)
    return sorted(found.items())


@dataclass(frozen=True)
class Known:
    """What is kept of a sealed image."""

    fingerprint: bytes
    resembles: str | None = None  #: the image that stands for it where copies are looked for


def in_turn(session: Session, *, split: str) -> None:
    """Let nothing be sealed beside a part of the holdout: two such transactions would not see each other's images.

    To be called first in the transaction; what is outside the holdout is sealed side by side. SQLite has one writer.
    """
    if session.get_bind().dialect.name == "postgresql":
        lock = func.pg_advisory_xact_lock if split == "holdout" else func.pg_advisory_xact_lock_shared
        session.execute(select(lock(SEALING_LOCK)))


def insert(session: Session, images: Mapping[str, Known], *, split: str) -> None:
    """Add what was just sealed, within the transaction that seals it.

    Whatever was sealed by others since it was looked up: no image outside the holdout that resembles one in it
    stays unmarked. The caller has called ``in_turn``.
    """
    known = {sha256: image.fingerprint for sha256, image in sorted(images.items()) if image.fingerprint}
    rows = [_row(sha256, images[sha256]) for sha256 in known]
    if rows:  # as parameters: to compile a statement of a thousand rows takes longer than to run it
        session.connection().execute(insert_or_ignore(session, FingerprintRow), rows)
    if split != "unlabeled":  # what a bucket holds as a copy of another image is found by itself from now on
        for row in rows:
            is_copy = (FingerprintRow.sha256 == row["sha256"]) & FingerprintRow.band_0.is_(None)
            session.execute(update(FingerprintRow).where(is_copy).values(row))
    if split == "holdout":
        for frozen, copies in _resembled(session, known).items():
            _mark(session, {copy.sha256: frozen for copy in copies})
            standing_for = FingerprintRow.resembles.in_([copy.sha256 for copy in copies])
            session.execute(update(FingerprintRow).where(standing_for).values(holdout_sha256=frozen))
    else:
        of_holdout = _resembled(session, known, is_holdout=True)
        _mark(session, {sha256: copies[0].sha256 for sha256, copies in of_holdout.items()})


def _row(sha256: str, image: Known) -> dict[str, Any]:
    bands = fingerprints.bands(image.fingerprint) if image.resembles is None else (None,) * fingerprints.NUM_BANDS
    named = {column.key: band for column, band in zip(_BANDS, bands, strict=True)}
    return {"sha256": sha256, "fingerprint": image.fingerprint, "resembles": image.resembles} | named


def _mark(session: Session, holdout_of: Mapping[str, str]) -> None:
    for sha256, frozen in sorted(holdout_of.items()):
        row = FingerprintRow.sha256 == sha256
        session.execute(update(FingerprintRow).where(row).values(holdout_sha256=frozen))


def resembling_holdout(session: Session) -> set[str]:
    """The images outside the holdout that are near copies of one in it: none of them may train."""
    is_frozen = select(LabeledImageRow.sha256).where(LabeledImageRow.split == "holdout")
    marked = FingerprintRow.holdout_sha256.is_not(None)
    return set(session.scalars(select(FingerprintRow.sha256).where(marked, FingerprintRow.sha256.not_in(is_frozen))))
