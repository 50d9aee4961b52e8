"""Inference: model versions of the registry, served over the Open Inference Protocol."""
