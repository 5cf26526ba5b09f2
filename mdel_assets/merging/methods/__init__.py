"""The merge methods by name. Read `method.py`; a new one is a file, a row here, and its test."""

from mdel_assets.merging.methods import linear, task_arithmetic
from mdel_assets.merging.methods.method import MergeMethod

METHODS: dict[str, MergeMethod] = {
    "linear": linear.METHOD,
    "task_arithmetic": task_arithmetic.METHOD,
}
