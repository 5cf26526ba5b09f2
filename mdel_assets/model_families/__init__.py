"""Families of models: their settings by one name, and the mixtures that their experts become."""
