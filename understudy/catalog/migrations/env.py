"""Alembic's entry: runs the migrations on the connection that ``Catalog.migrate`` hands it, under its lock."""

from alembic import context

from understudy.catalog.tables import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
