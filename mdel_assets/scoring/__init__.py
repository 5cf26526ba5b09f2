"""Scoring: the log-probability of every token of a document under a model, and what follows."""
