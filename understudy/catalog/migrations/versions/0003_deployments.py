"""Deployments: challengers on live traffic, at most one of them active."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "deployments",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("champion", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("share", sa.Float(precision=53), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=1000), nullable=True),
        sa.Column("opened_by", sa.String(length=200), nullable=False),
        sa.Column("ended_by", sa.String(length=200), nullable=True),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.Column("champion_requests", sa.BigInteger(), nullable=False),
        sa.Column("champion_images", sa.BigInteger(), nullable=False),
        sa.Column("champion_errors", sa.BigInteger(), nullable=False),
        sa.Column("champion_seconds", sa.Float(precision=53), nullable=False),
        sa.Column("challenger_requests", sa.BigInteger(), nullable=False),
        sa.Column("challenger_images", sa.BigInteger(), nullable=False),
        sa.Column("challenger_errors", sa.BigInteger(), nullable=False),
        sa.Column("challenger_seconds", sa.Float(precision=53), nullable=False),
        sa.Column("compared_images", sa.BigInteger(), nullable=False),
        sa.Column("agreed_images", sa.BigInteger(), nullable=False),
        sa.Column("skipped_images", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["champion"], ["versions.id"], name=op.f("fk_deployments_champion")),
        sa.ForeignKeyConstraint(["version"], ["versions.id"], name=op.f("fk_deployments_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
    )
    op.create_index(
        "uq_deployments_active",
        "deployments",
        ["state"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )
