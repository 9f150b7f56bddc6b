"""Reviews: what people say of pseudo-labels."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("class_name", sa.String(length=255), nullable=True),
        sa.Column("is_new_class", sa.Boolean(), nullable=False),
        sa.Column("teacher", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=255), nullable=False),
        sa.Column("confidence", sa.Float(precision=53), nullable=False),
        sa.Column("is_audit", sa.Boolean(), nullable=False),
        sa.Column("audit_threshold", sa.Float(precision=53), nullable=True),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("undone_at", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(["sha256"], ["images.sha256"], name=op.f("fk_reviews_sha256")),
        sa.ForeignKeyConstraint(["teacher"], ["versions.id"], name=op.f("fk_reviews_teacher")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
        sqlite_autoincrement=True,  # the id of a deleted review is no other's: somebody may undo it still
    )
    op.create_index("ix_reviews_sha256", "reviews", ["sha256", "id"])
