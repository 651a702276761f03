"""Training from configurations: LightningCLI over prefrep's modules and data, for runs of one's own and for trials of a sweep."""
