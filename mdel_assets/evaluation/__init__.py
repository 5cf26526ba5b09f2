"""Evaluation: token scores, perplexity reports, the matrix. Read `windows.py` first."""
