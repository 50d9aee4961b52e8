"""Judges predictions: figures, mistakes, paired comparisons and pictures. Does not import torch."""
