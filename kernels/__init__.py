"""Performance-critical tensor operations, one folder per operation.

The `__init__.py` of a folder defines the operation's interface and selects an implementation; only tests import the
implementations directly. `reference.py` defines the operation in eager torch: it is correct on every device, but not
optimized. `triton.py` is the GPU version, which is tested on a CPU in Triton's interpreter. A native CPU version would
be added only if it beat the reference in a benchmark; none has so far.
"""
