"""Alembic's entry: `Database.upgrade` passes its connection; the alembic command reads the settings."""

from alembic import context

from app.database import Database
from app.settings import Settings
from app.tables import Table


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

given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    database = Database.from_settings(Settings())
    with database.engine.connect() as connection:
        run(connection)
        connection.commit()
    database.close()
