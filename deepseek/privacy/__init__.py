"""Differential privacy: accounting for noisy releases, and the mechanisms that make them.

`accounting` computes epsilon; `sampling`, `noise` and `clipping` draw cohorts, add noise and bound what one member can
change. Accounting and mechanisms make the same assumptions: Poisson sampling with a secret outcome, Gaussian noise
whose standard deviation is a multiple of the clipping norm, and add/remove adjacency. Only `loss_distributions`, which
is imported on the first use of accounting, needs dp-accounting and SciPy.
"""
