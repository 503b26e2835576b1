"""The measurements behind `harmonium bench` and docs/benchmarks.md."""
