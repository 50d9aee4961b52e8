"""Marks in images."""
