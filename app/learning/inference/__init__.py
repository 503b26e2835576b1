"""From folded-in rows of ratings to ranking, reasons, similarity, taste and questions.

May import the trained model's modules of `learning`, no other room.
Start in ranking.py.
"""
