"""Revisions of the trainer's tables."""
