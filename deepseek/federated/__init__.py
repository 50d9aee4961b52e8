"""Federated learning: rounds, the aggregation of updates, and the programs of coordinators and nodes."""
