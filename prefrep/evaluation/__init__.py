"""Benchmarks: records and a scorer in, a folder of numbers out."""
