"""Tabular benchmark: learning curves of 288 small networks, so that searches can be compared without training.

`train.py` has trained each configuration once, and `table.py` reads the curves. The curves were committed before any
sampler was written.
"""
