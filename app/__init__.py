"""Harmonium: movie recommendations over REST from a restricted Boltzmann machine."""
