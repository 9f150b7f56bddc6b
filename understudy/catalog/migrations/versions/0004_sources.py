"""Remote sources of buckets, and their objects as they were listed last."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "sources",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("bucket", sa.String(length=63), nullable=False),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["bucket"], ["buckets.name"], name=op.f("fk_sources_bucket")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_sources_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sources")),
        sa.UniqueConstraint("digest", name=op.f("uq_sources_digest")),
    )
    op.create_table(
        "source_objects",
        sa.Column("source_id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=2000), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=True),
        sa.Column("etag", sa.String(length=200), nullable=True),
        sa.Column("modified_at", sa.Float(precision=53), nullable=True),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_source_objects_job_id")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_source_objects_source_id")),
        sa.PrimaryKeyConstraint("source_id", "digest", name=op.f("pk_source_objects")),
    )
    op.create_index("ix_source_objects_job_id", "source_objects", ["job_id"])
