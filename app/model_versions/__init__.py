"""Model versions: written, verified, activated, compared, served.

Imports `ratings`, `storage` and `learning`. A version is immutable but for its note;
the active one is a pointer. Start at `store.py`, then `activation.py`; `serving.py` is
what each API process holds in memory.
"""
