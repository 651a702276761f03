"""Evaluation: records and a scorer in, a folder of results out."""
