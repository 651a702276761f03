"""From files to batches: sources, formats, encoding, token trees, the shared DataModule."""
