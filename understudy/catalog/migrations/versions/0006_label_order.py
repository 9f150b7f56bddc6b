"""What the order of labeling goes by: a label set's bucket and priority, and when a bucket had its last turn."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("buckets", sa.Column("labeled_at", sa.Float(precision=53), nullable=True))
    op.add_column("label_sets", sa.Column("bucket", sa.String(length=63), nullable=True))
    op.add_column("label_sets", sa.Column("priority", sa.Integer(), server_default="0", nullable=False))
    op.execute("UPDATE label_sets SET bucket = (SELECT bucket FROM shards WHERE shards.id = label_sets.shard_id)")
    is_open = sa.text("state IN ('queued', 'running')")
    op.create_index(
        "ix_label_sets_turn",
        "label_sets",
        ["priority", "bucket", "id"],
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
