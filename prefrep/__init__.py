"""Train, question and use preference models."""
