"""The operator's side of a mesh: collecting garbage, and backups. Services go on working meanwhile.

It asks every service for its part by `deepseek.upkeep.v1` and opens nobody's database. What is reachable is decided
here (`reachable`), because here the formats of manifests are known.
"""
