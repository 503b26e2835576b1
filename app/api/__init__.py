"""The HTTP API: routes, bodies of requests, one table from errors to problems.

May import domain rooms, not `worker` or `cli`; it writes neither SQL nor NumPy. Start
in dependencies.py, then in the file named after the path.
"""
