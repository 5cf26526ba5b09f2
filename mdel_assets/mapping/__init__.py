"""The map: what experts were worth in each setting of a family of experiments."""
