"""Sweeps: many runs of one kind, resumable, compared with each other on the same examples."""
