"""Marks in text, made while a model draws its tokens.

`gumbel` is the scheme of ours; `kgw` and `synthid` are published ones, to choose and to measure by. `scheme` is what
all have in common, `tail` the exact distribution of their scores.
"""
