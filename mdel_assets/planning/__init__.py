"""The plan of a run: what it makes, and what that takes, before anything runs."""
