"""Artifacts on disk: whole or not there, recorded, verified; safetensors in and out."""
