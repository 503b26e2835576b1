"""The measurements of docs/benchmarks.md: `make bench`.

`python -m benchmarks.NAME --help` explains one of them.

May import all of `app`; nothing imports it but its tests, and the wheel leaves it out.
Start reading in `report.py` (command line and tables), then in the module of the figure
in question.
"""
