"""The restricted Boltzmann machine and what surrounds it: NumPy, SciPy and the standard library only."""
