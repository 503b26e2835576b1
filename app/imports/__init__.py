"""Files become ratings or movies: upload, layout, rows, validation, idempotent slices.

May import `catalogue`, `ratings`, `jobs` and what stands below them.
Start in run.py; readers.py turns bytes into rows.
"""
