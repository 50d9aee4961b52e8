"""Benchmarks, one module per area: `python -m benchmarks.<area> --json`. Certified results are in docs/results/."""
