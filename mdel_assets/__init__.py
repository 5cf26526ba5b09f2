"""MDEL assets: one corpus becomes many experts, merged models and one honest table."""

__version__ = "0.1.0"
