"""What a service does for its operator: tell what it refers to, and give out and take in its rows.

`statefile` is the format, which clients read too; `dump` is between it and a database; `servicer` is UpkeepService.
"""
