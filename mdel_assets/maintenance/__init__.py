"""Keeping a home in order: what the doctor looks at, and forgetting a domain."""
