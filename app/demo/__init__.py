"""Data to try Harmonium with: bundled films, synthetic raters, MovieLens downloads.

May import `errors` only; the command line stores what it returns.
Start in catalogue.py.
"""
