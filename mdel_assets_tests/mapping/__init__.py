"""Tests of maps of families of experiments."""
