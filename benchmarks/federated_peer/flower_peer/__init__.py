"""An app for plain Flower, written as Flower's own templates are: the peer of `benchmarks.federated`."""
