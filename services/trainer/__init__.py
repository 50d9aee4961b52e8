"""The trainer: durable training runs and model exports around `deepseek.training`."""
