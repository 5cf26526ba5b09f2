"""The web UI's server: its guard, and requests to it."""
