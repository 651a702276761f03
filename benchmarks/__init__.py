"""Benchmarks: `benchmarks/run all`, or one of them by name. The package does not depend on them."""
