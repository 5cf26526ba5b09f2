"""Benchmarks: each prints one JSON line per figure, with the peer it is a ratio to."""
