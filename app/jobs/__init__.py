"""The durable queue and the loop that works on it.

Imports `storage`. It knows no kind of job: the loop is handed its handlers and chores.
Start at `queue.py` (the table's transitions), then `held.py` (what a handler gets) and
`loop.py` (the worker's threads).
"""
