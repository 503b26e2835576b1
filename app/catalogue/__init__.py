"""The movies: storing them, searching them, resolving titles, titles for lists.

May import `ratings`, `storage` and what stands below them.
Start in movies.py.
"""
