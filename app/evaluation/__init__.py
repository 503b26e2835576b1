"""How good the recommendations are: protocols, the scoreboard of methods, its report.

May import `training` and what stands below it; metrics are in `learning.evaluation`.
Start in protocols.py.
"""
