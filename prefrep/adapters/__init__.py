"""A preference model as the reward of other projects' trainers: TRL, OpenRLHF, verl. Each adapter is a function over a scorer or a URL.

No adapter imports the project that it serves: their trainers call plain functions.
"""
