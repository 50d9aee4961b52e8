"""Definitions of the tables of certified figures: one module per topic, each of which declares `TABLES`."""
