"""The registry: names, versions, aliases and lineage of data sets and models, and what watermarks stand for."""
