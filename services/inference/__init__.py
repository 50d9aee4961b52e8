"""Inference: serves model versions from the registry over the Open Inference Protocol."""
