"""Formulas of preference models as functions of tensors and arrays, without parameters or state.

Import the modules and call functions through them (`skew.score`, `losses.logistic`), since the module gives the name its meaning.
"""
