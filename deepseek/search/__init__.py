"""Search for good values of parameters: search spaces, algorithms and pruners, for any Python objective.

`deepseek.search.api` searches within one process. The tuner service uses the same engine, and stores every trial.
Importing this package does not import Optuna.
"""
