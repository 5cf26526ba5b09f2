"""Bundled experiments, one YAML file each."""
