"""Harmonium: movie recommendations over REST from a restricted Boltzmann machine.

Each package is a room named by its subject; docs/architecture.md draws them in order.
Start reading in main.py for the service, in learning/ for the model.
"""
