"""Measurements, one module an area: `python -m benchmarks.<area> --json`. Certified results lie in docs/results/."""
