"""A service's part in garbage collection, backup and restore.

`statefile` implements the file format, which clients read too. `dump` exports and imports the tables. `records` keeps
lists of the blobs that garbage collection deletes. `servicer` implements UpkeepService.
"""
