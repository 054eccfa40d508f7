"""Alembic's entry point: runs the migrations on the connection that `migrating.upgrade` passes."""

from alembic import context

from kattila_manager.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    # SQLite can roll back DDL, and SQLAlchemy begins the transactions here. So a migration is complete or not done.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
