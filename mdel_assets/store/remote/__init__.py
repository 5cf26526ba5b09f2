"""Artifacts in object storage: pushed when they are published, fetched when they are needed."""
