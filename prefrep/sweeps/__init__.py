"""Sweeps: grids of runs, resumable, with paired tests between models on the same examples."""
