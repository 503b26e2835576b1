"""Ratings: storing batches, reading them, snapshots for training, change counts.

May import `storage` and what stands below it.
Start in store.py.
"""
