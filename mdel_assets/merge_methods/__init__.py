"""The merge methods by name. Read `method.py`; a new one is a file, a row here, and its test."""

from mdel_assets.merge_methods import (
    breadcrumbs,
    dare_linear,
    dare_ties,
    della,
    karcher,
    linear,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    passthrough,
    sce,
    slerp,
    task_arithmetic,
    ties,
)
from mdel_assets.merge_methods.method import MergeMethod

METHODS: dict[str, MergeMethod] = {
    "linear": linear.METHOD,
    "task_arithmetic": task_arithmetic.METHOD,
    "slerp": slerp.METHOD,
    "nuslerp": nuslerp.METHOD,
    "multislerp": multislerp.METHOD,
    "karcher": karcher.METHOD,
    "ties": ties.METHOD,
    "dare_linear": dare_linear.METHOD,
    "dare_ties": dare_ties.METHOD,
    "della": della.METHOD,
    "breadcrumbs": breadcrumbs.METHOD,
    "model_stock": model_stock.METHOD,
    "sce": sce.METHOD,
    "nearswap": nearswap.METHOD,
    "passthrough": passthrough.METHOD,
}
