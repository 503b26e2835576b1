"""The model in NumPy: rating matrix, training, trained model, model file, warm start.

Pure: may import NumPy, SciPy and the standard library, and no other room.
Start in training.py, then boltzmann/.
"""
