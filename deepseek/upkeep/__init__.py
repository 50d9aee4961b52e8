"""Garbage collection, backup and restore of a running mesh.

This package calls the `deepseek.upkeep.v1` API of each service and never opens a service's database. The module
`reachable` determines which artifacts are reachable. This happens on the client, because the client library defines the
manifest formats.
"""
