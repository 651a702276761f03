"""Numbers about preferences: RewardBench's rules and intervals; arrays in, numbers out, no model and no torch."""
