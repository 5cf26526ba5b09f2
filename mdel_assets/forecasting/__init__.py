"""The forecast: short probe trainings, and what they say of the gain of experts over `dense`."""
