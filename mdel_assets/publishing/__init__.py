"""Publishing: datasets, experts and merged models to the Hub or a folder, with their cards."""
