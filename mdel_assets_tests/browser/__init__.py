"""The web UI in headless Chromium."""
