"""The ground of all domain rooms: database, tables, cursors, ids, the base of answers.

May import `settings` and `errors` only; it knows no room above.
Start in database.py, then tables.py.
"""
