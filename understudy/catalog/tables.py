"""The catalog's tables. Migrations under ``migrations/`` make them; a test holds the two equal.

Times are seconds since 1970 as a float, always by the database's own clock (``database.now``), so
that leases do not depend on any program's clock.
"""

import secrets
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from understudy.records import DeploymentKind, DeploymentState, GenerationState, JobKind, JobState, VersionState
from understudy.review_records import Verdict

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


#: Label sets that wait or are being made; in the words of the index, so that a query is seen to fit it.
IS_OPEN = "state IN ('queued', 'running')"


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {dict[str, Any]: JSON, float: Float(53)}


class Claimable:
    """Columns of work that a program claims: see ``catalog/claims.py`` for the protocol."""

    state: Mapped[str] = mapped_column(String(16), index=True)
    attempt: Mapped[int] = mapped_column(Integer, default=0)  # rises with every claim: the fence
    forgiven: Mapped[int] = mapped_column(Integer, default=0)  # attempts given back unharmed
    owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[float | None]
    problem: Mapped[dict[str, Any] | None]
    created_at: Mapped[float]
    updated_at: Mapped[float]


class BucketRow(Base):
    __tablename__ = "buckets"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    # Part of its objects' keys, so that a bucket made again after its deletion shares no object with the first.
    token: Mapped[str] = mapped_column(String(16), default=lambda: secrets.token_hex(4), server_default="")
    created_at: Mapped[float]
    labeled_at: Mapped[float | None]  # when a worker last took one of its shards to label


class JobRow(Claimable, Base):
    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[JobKind] = mapped_column(String(16))
    state: Mapped[JobState] = mapped_column(String(16), index=True)
    bucket: Mapped[str | None] = mapped_column(String(63))
    params: Mapped[dict[str, Any]]
    step: Mapped[str | None] = mapped_column(String(200))
    done: Mapped[int] = mapped_column(BigInteger, default=0)
    total: Mapped[int | None] = mapped_column(BigInteger)
    metrics: Mapped[dict[str, Any] | None]  # of training: records.TrainingProgress
    result: Mapped[dict[str, Any] | None]


class SourceRow(Base):
    """A remote source of a bucket. Its digest, of bucket and URL, is what makes it one."""

    __tablename__ = "sources"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    bucket: Mapped[str] = mapped_column(ForeignKey("buckets.name"))
    url: Mapped[str] = mapped_column(String(2000))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))  # its newest sync
    created_at: Mapped[float]


class SourceObjectRow(Base):
    """An object of a source as it was listed last, and the job that has it: it is taken once that has succeeded."""

    __tablename__ = "source_objects"
    source_id: Mapped[str] = mapped_column(ForeignKey("sources.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of the key, which may be long
    key: Mapped[str] = mapped_column(String(2000))
    num_bytes: Mapped[int | None] = mapped_column(BigInteger)
    etag: Mapped[str | None] = mapped_column(String(200))
    modified_at: Mapped[float | None]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)


class ShardRow(Base):
    __tablename__ = "shards"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    key: Mapped[str] = mapped_column(String(300), unique=True)
    split: Mapped[str] = mapped_column(String(16), index=True)
    bucket: Mapped[str | None] = mapped_column(ForeignKey("buckets.name"), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    num_images: Mapped[int]
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[float]


class ImageRow(Base):
    """An accepted unlabeled image. The primary key is what makes every image be accepted once."""

    __tablename__ = "images"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    shard_id: Mapped[int] = mapped_column(ForeignKey("shards.id"), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    entry: Mapped[int]  # its index in the upload


class LabeledImageRow(Base):
    """An image that a human labeled. It is in the labeled set or in the holdout, never in both."""

    __tablename__ = "labeled_images"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    class_name: Mapped[str] = mapped_column(String(255), index=True)
    split: Mapped[str] = mapped_column(String(16), index=True)
    shard_id: Mapped[int] = mapped_column(ForeignKey("shards.id"), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    entry: Mapped[int]


class FingerprintRow(Base):
    """What an image is told from near copies by, and its bands, by which an index finds the few to compare."""

    __tablename__ = "fingerprints"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(64))
    # No bands: it resembles another, which stands for it, so that a thousand frames of one scene are one to compare.
    band_0: Mapped[int | None] = mapped_column(index=True)
    band_1: Mapped[int | None] = mapped_column(index=True)
    band_2: Mapped[int | None] = mapped_column(index=True)
    band_3: Mapped[int | None] = mapped_column(index=True)
    resembles: Mapped[str | None] = mapped_column(String(64), index=True)
    # The holdout's image that this one, which was there before, is a near copy of: it trains nothing.
    holdout_sha256: Mapped[str | None] = mapped_column(String(64), index=True)


class LabelSetRow(Claimable, Base):
    """The label set of one shard by one teacher: at first wanted, at last published once."""

    __tablename__ = "label_sets"
    __table_args__ = (
        UniqueConstraint("shard_id", "version"),
        Index("ix_label_sets_version_state", "version", "state"),
        # Only of what is open: the oldest of a bucket is its first entry, however much has been labeled.
        Index(
            "ix_label_sets_turn",
            "priority",
            "bucket",
            "id",
            sqlite_where=text(IS_OPEN),
            postgresql_where=text(IS_OPEN),
        ),
        {"sqlite_autoincrement": True},  # the id of a deleted row is no other's: late workers hold it still
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    state: Mapped[JobState] = mapped_column(String(16))
    shard_id: Mapped[int] = mapped_column(ForeignKey("shards.id"))
    version: Mapped[str] = mapped_column(ForeignKey("versions.id"))
    key: Mapped[str | None] = mapped_column(String(300))
    sha256: Mapped[str | None] = mapped_column(String(64))
    num_rows: Mapped[int | None]
    bucket: Mapped[str | None] = mapped_column(String(63))  # its shard's
    priority: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))  # ``shards.NEW`` comes first


class ReviewRow(Base):
    """What a person said of an image's pseudo-label. Rows are added, and undone; the newest that is not undone counts."""

    __tablename__ = "reviews"
    __table_args__ = (Index("ix_reviews_sha256", "sha256", "id"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("images.sha256"))
    verdict: Mapped[Verdict] = mapped_column(String(16))
    class_name: Mapped[str | None] = mapped_column(String(255))  # NULL: rejected
    is_new_class: Mapped[bool]
    teacher: Mapped[str] = mapped_column(ForeignKey("versions.id"))
    label: Mapped[str] = mapped_column(String(255))
    confidence: Mapped[float]
    is_audit: Mapped[bool]
    audit_threshold: Mapped[float | None]
    actor: Mapped[str] = mapped_column(String(200))
    at: Mapped[float]
    undone_at: Mapped[float | None]


class GenerationRow(Base):
    __tablename__ = "generations"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[GenerationState] = mapped_column(String(16))
    request: Mapped[dict[str, Any]]
    teacher: Mapped[str | None] = mapped_column(ForeignKey("versions.id"))
    version: Mapped[str | None] = mapped_column(ForeignKey("versions.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    report: Mapped[dict[str, Any] | None]
    created_at: Mapped[float]
    ended_at: Mapped[float | None]


class LoopRow(Base):
    """Whether the loop is paused, and when it turns by itself: a table of one row."""

    __tablename__ = "loop"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    paused_at: Mapped[float | None]  # NULL: it is not paused
    paused_by: Mapped[str | None] = mapped_column(String(200))
    reason: Mapped[str | None] = mapped_column(String(1000))
    generate_after: Mapped[int] = mapped_column(BigInteger)  # as the reconciler's settings said last


class VersionRow(Base):
    __tablename__ = "versions"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    generation: Mapped[int] = mapped_column(index=True)
    state: Mapped[VersionState] = mapped_column(String(16))
    student: Mapped[str] = mapped_column(String(200))
    card: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class DeploymentRow(Base):
    """A challenger on live traffic. At most one row is active: that is an index, not a race."""

    __tablename__ = "deployments"
    __table_args__ = (
        Index(
            "uq_deployments_active",
            "state",
            unique=True,
            sqlite_where=text("state = 'active'"),
            postgresql_where=text("state = 'active'"),
        ),
    )
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    version: Mapped[str] = mapped_column(ForeignKey("versions.id"))
    champion: Mapped[str] = mapped_column(ForeignKey("versions.id"))
    kind: Mapped[DeploymentKind] = mapped_column(String(16))
    share: Mapped[float]
    limits: Mapped[dict[str, Any]]
    state: Mapped[DeploymentState] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(String(1000))
    opened_by: Mapped[str] = mapped_column(String(200))
    ended_by: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[float]
    ended_at: Mapped[float | None]
    # The counts, by the names of ``records.Counts``: every process adds what it has counted.
    champion_requests: Mapped[int] = mapped_column(BigInteger, default=0)
    champion_images: Mapped[int] = mapped_column(BigInteger, default=0)
    champion_errors: Mapped[int] = mapped_column(BigInteger, default=0)
    champion_seconds: Mapped[float] = mapped_column(default=0.0)
    challenger_requests: Mapped[int] = mapped_column(BigInteger, default=0)
    challenger_images: Mapped[int] = mapped_column(BigInteger, default=0)
    challenger_errors: Mapped[int] = mapped_column(BigInteger, default=0)
    challenger_seconds: Mapped[float] = mapped_column(default=0.0)
    compared_images: Mapped[int] = mapped_column(BigInteger, default=0)
    agreed_images: Mapped[int] = mapped_column(BigInteger, default=0)
    skipped_images: Mapped[int] = mapped_column(BigInteger, default=0)


class ChampionRow(Base):
    """The champion's history: only ever appended to. The newest row is the one pointer that moves."""

    __tablename__ = "champions"
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[str] = mapped_column(ForeignKey("versions.id"))
    at: Mapped[float]
    reason: Mapped[str] = mapped_column(String(1000))
    actor: Mapped[str] = mapped_column(String(200))


class IdempotencyRow(Base):
    """Which job a client's request made, so that the same request sent again makes no second."""

    __tablename__ = "idempotency_keys"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of who, what and the key
    fingerprint: Mapped[str] = mapped_column(String(64))  # SHA-256 of what was sent
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[float] = mapped_column(index=True)


class RecallRow(Base):
    """A bucket that was deleted: what of it is still to be removed from the store."""

    __tablename__ = "recalls"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    folder: Mapped[str] = mapped_column(String(100))  # of its shards and label sets
    actor: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[float]
    swept_at: Mapped[float | None] = mapped_column(index=True)  # NULL: late writers may still leave something


class WebhookRow(Base):
    """Who is told of events, and what signs it. The secret is needed as it is: a hash of it could sign nothing."""

    __tablename__ = "webhooks"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    url: Mapped[str] = mapped_column(String(2000))
    events: Mapped[list[str]] = mapped_column(JSON)
    description: Mapped[str] = mapped_column(String(200))
    secret: Mapped[str] = mapped_column(String(100))
    previous_secret: Mapped[str | None] = mapped_column(String(100))  # signs too, until then
    previous_until: Mapped[float | None]
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[float]


class DeliveryRow(Claimable, Base):
    """One event for one webhook: written with the fact that it tells, delivered later.

    No foreign key to its webhook: whoever deletes that must not fail the fact.
    """

    __tablename__ = "deliveries"
    __table_args__ = ({"sqlite_autoincrement": True},)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    webhook_id: Mapped[str] = mapped_column(String(32), index=True)
    event_id: Mapped[str] = mapped_column(String(40))
    event: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(200))
    body: Mapped[str] = mapped_column(Text)  # the very bytes, the same at every attempt
    attempts: Mapped[list[dict[str, Any]]] = mapped_column(JSON)  # records.DeliveryAttempt, the newest last


class ApiKeyRow(Base):
    """What is kept of an API key: never its secret."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    scopes: Mapped[str] = mapped_column(String(200))  # separated by spaces
    digest: Mapped[str] = mapped_column(String(64))  # SHA-256 of the secret, hexadecimal
    rate_limit: Mapped[float | None]  # requests a second; 0: none, NULL: the service's default
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]
