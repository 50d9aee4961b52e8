"""The registry: names, versions, aliases and lineage of data sets and models; ids of watermarks."""
