"""Ranked movies for users: lists, groups, what-if, similar movies, predictions, taste.

May import `model_versions`, `catalogue`, `ratings` and rooms below; stores nothing.
Start in lists.py.
"""
