"""The newest figures of training, on the job that trains."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("metrics", sa.JSON(), nullable=True))
