"""Metrics of preferences: functions of NumPy arrays, without models or torch."""
