"""The parts of `deepseek demo`: real data from a package, what to train on it, and a report of how it went."""
