"""Trainable parts: backbones, heads, skew operators, losses, policy objectives."""
