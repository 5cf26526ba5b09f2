"""Merging: several models become one. Read `recipe.py`, then `streaming.py`."""
