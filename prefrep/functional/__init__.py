"""Tensors in, tensors out: the formulas of preference models, without parameters and without state.

Use the modules by name (`skew.score`, `losses.logistic`): what a function means is clear from where it stands.
"""
