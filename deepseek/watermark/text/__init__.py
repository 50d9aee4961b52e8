"""Marks in text, embedded while a model's tokens are sampled.

`gumbel` is our own scheme; `kgw` and `synthid` are published schemes, included for use and for comparison. `scheme`
defines the interface of all schemes, and `detection` finds marks of any scheme in a text.
"""
