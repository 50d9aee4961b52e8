"""gRPC clients of the services that the tuner calls."""
