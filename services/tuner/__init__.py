"""The tuner: durable studies, whose trials are suggested by `deepseek.search`."""
