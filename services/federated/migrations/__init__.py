"""Revisions of the coordinator's tables."""
