"""Tasks of lm-evaluation-harness: which there are, and what models score on them."""
