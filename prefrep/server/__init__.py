"""`prefrep serve`: preference models behind HTTP, for training loops, clients and people."""
