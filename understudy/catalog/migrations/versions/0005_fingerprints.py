"""Fingerprints: by which near copies of an image are found."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "fingerprints",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(length=64), nullable=False),
        sa.Column("band_0", sa.Integer(), nullable=True),
        sa.Column("band_1", sa.Integer(), nullable=True),
        sa.Column("band_2", sa.Integer(), nullable=True),
        sa.Column("band_3", sa.Integer(), nullable=True),
        sa.Column("resembles", sa.String(length=64), nullable=True),
        sa.Column("holdout_sha256", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_fingerprints")),
    )
    for column in ("band_0", "band_1", "band_2", "band_3", "resembles", "holdout_sha256"):
        op.create_index(op.f(f"ix_fingerprints_{column}"), "fingerprints", [column])
