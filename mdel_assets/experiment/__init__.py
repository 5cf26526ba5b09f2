"""What is studied: the sections of an experiment's YAML, its loader and its rules."""
