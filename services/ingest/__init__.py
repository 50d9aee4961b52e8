"""Ingest: receives streams of samples, commits them as immutable data set versions, and streams them back."""
