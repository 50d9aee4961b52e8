"""What a service does for its operator: tell what it refers to, give out and take in its rows, record what is deleted.

`statefile` is the format, which clients read too; `dump` is between it and a database; `records` keeps what garbage
collections delete; `servicer` is UpkeepService.
"""
