"""The coordinator of federated runs: federations, nodes and rounds, built on `deepseek.federated`."""
