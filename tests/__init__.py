"""Imported before all tests, so before NumPy: settings of their processes."""

import os
import sys

# Two tests run at a time, and matrices are small: more threads would only wait for one
# another.
for _library in ("OPENBLAS", "OMP", "MKL"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"

# Compiling all modules anew takes each process seconds, and tests start many.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
