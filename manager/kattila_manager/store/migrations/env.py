"""Alembic's entry: runs the migrations on the connection that `migrating.migrate` hands over."""

from alembic import context

from kattila_manager.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    # SQLite can, and our connections begin transactions as SQLAlchemy says: a migration is done whole or not at all.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
