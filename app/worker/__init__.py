"""The worker process, with all handlers and chores, and its supervisor.

Imports `training`, `imports` and `jobs`; never `api`. Start at `process.py`.
`supervisor.py` keeps one worker running beside the API, `liveness.py` is what a
container's healthcheck reads.
"""
