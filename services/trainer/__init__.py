"""The trainer: durable training runs and model exports, built on `deepseek.trainjob`."""
