"""Training runs: requests, costs, the fit, the gate, the schedule.

Imports `model_versions`, `imports`, `ratings` and `jobs`. Start at `requests.py` (what
operators call), then `run.py` (the handler of a run's job: snapshot, fit, gate, model
version).
"""
