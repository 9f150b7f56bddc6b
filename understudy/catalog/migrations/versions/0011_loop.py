"""Whether the loop is paused, by whom and why, and when it turns by itself: one row."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    loop = op.create_table(
        "loop",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("paused_at", sa.Float(precision=53), nullable=True),
        sa.Column("paused_by", sa.String(length=200), nullable=True),
        sa.Column("reason", sa.String(length=1000), nullable=True),
        sa.Column("generate_after", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_loop")),
    )
    op.bulk_insert(loop, [{"id": 1, "generate_after": 0}])
