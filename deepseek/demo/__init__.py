"""Parts of `deepseek demo`: a real data set from a Python package, the run spec, the measurements and the report."""
