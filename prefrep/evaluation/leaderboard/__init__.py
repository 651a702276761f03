"""Leaderboards: ratings of systems from battles, with what they leave open."""
