"""The command line: `deepseek`."""
