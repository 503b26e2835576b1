"""The report of an evaluation as one HTML file without scripts.

May import `learning` and the evaluation's own types.
Start in page.py; plots.py draws the SVG figures.
"""
