"""Exit statuses of commands. docs/cli.md explains them; 0 means success."""

FAILED = 1
"""The command failed, or a check that it makes failed."""

NOT_MARKED = 3
"""`deepseek watermark detect`: the content carries no mark."""

INCONCLUSIVE = 4
"""`deepseek watermark detect`: the content neither proves nor excludes a mark."""

INTERRUPTED = 130
"""Ctrl-C: by convention, 128 plus the number of SIGINT."""
