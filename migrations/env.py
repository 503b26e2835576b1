"""Alembic's entry: `Database.upgrade` passes its connection; the alembic command reads the settings."""

from alembic import context

from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import Table


def run(connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        render_as_batch=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("Harmonium's migrations need a database to run on: leave out --sql.")

upgrading = context.config.attributes.get("connection")
if upgrading is not None:
    run(upgrading)
else:
    database = Database.from_settings(Settings())
    with database.engine.connect() as connection:
        run(connection)
        connection.commit()
    database.close()
