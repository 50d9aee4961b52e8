"""Data sets in other formats: imports foreign files as samples, and exports samples as foreign files.

A `Source` reads rows from files. `infer` derives the schema in a first pass over the rows. An `Import` turns the rows
into samples in a second pass, and keeps bad rows aside. `export` writes the samples of a version. None of these
modules needs a mesh, and pyarrow and minio are imported only when a source needs them.
"""
