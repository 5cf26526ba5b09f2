"""Training: the seed model and the experts. Read `expert.py` first."""
