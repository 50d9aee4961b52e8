"""Invisible marks with a unique id in what models make, found again by whoever holds the key, with exact p-values.

`keys` and `payload` are common to all kinds of content; `text` marks tokens while they are drawn. A mark says that a
model made something, and not that it is authentic: whoever holds the key can mark anything.
"""
