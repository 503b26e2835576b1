"""Metrics of rankings and probabilities, splits, baselines, synthetic ratings.

May import the modules of `learning`, no other room.
Start in metrics.py.
"""
