"""The price of the report."""

from mdel_assets.line.price import Price
from mdel_assets.training.sizes import Sizes

# The style, and what a row of the matrix, a domain and a model take on the page.
_PAGE_BYTES, _BYTES_PER_ROW, _BYTES_PER_DOMAIN, _BYTES_PER_MODEL = 4e4, 110.0, 5.5e3, 1.5e3


def of_report(sizes: Sizes, key: str) -> Price:
    """Return the price of the page: the matrix is read once more, nothing is computed anew."""
    experiment = sizes.experiment
    num_domains, num_models = len(sizes.domains), len(experiment.model_keys)
    rows = num_domains * num_models * len(experiment.evaluation.splits)
    page = _PAGE_BYTES + _BYTES_PER_DOMAIN * num_domains + _BYTES_PER_MODEL * num_models
    return Price(
        disk_bytes=page + _BYTES_PER_ROW * rows,
        core_seconds=1.5 + 0.02 * num_models + 0.001 * rows,
    )
