"""Ingest: samples stream in, immutable data set versions come out, and samples stream back."""
