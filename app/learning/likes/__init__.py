"""P(stars >= level): an ordinal RBM with biases of user, movie and level, calibrated.

May import `learning.boltzmann` and modules of `learning`, no other room.
Start in ordinal_rbm.py.
"""
