"""Benchmarks of responses whose quality is known: one row per prompt, one file per benchmark."""
