"""Invisible marks (watermarks) in the text and images that models generate. A mark can carry an id.

Marking and detection use the same secret key, and detection reports a p-value. `text` marks tokens as they are sampled,
and `image` marks pixels; both packages use `keys`, `ids`, `verdict`, `tail_bounds` and `arrays`. A mark shows that
somebody who holds the key marked the content. It does not show that the content is authentic: anyone who holds the key
can mark anything.
"""
