"""The everyday tasks of `benchmarks.tasks`: one module per task, each of which declares `TASK`."""
