"""The prices of the forecast."""

import dataclasses

from mdel_assets.line.price import Price
from mdel_assets.training.prices import of_training, stored_model, tokens_of
from mdel_assets.training.sizes import RECORD_BYTES, Sizes

# Losses of a model, its loading, and a merge of small models.
_SECONDS_PER_MODEL = 0.5


def of_probes(sizes: Sizes, key: str) -> Price:
    """Return the price of all probes: their trainings, and the losses of each on every domain."""
    experiment = sizes.experiment
    assert experiment.forecast
    settings = experiment.forecast.probe_training(experiment.training)
    own = [
        of_training(sizes, settings, num_tokens_there=tokens_of(sizes, domain, settings))
        for domain in sizes.domains
    ]
    held_out = settings.num_validation_blocks * settings.block_size * len(own)
    # The seed, the probes, and two points of the line to their mean.
    count = len(own) + 3
    again = count * sizes.model.forward(held_out, length=settings.block_size)
    return dataclasses.replace(
        own[0],
        num_tokens=sum(price.num_tokens for price in own),
        operations=sum(price.operations for price in own) + again,
        disk_bytes=RECORD_BYTES,
        core_seconds=sum(price.core_seconds for price in own)
        + count * (_SECONDS_PER_MODEL + stored_model(sizes) / 5e8),
    )


def of_forecast(sizes: Sizes, key: str) -> Price:
    """Return the price of the forecast itself: its files."""
    return Price(disk_bytes=2 * RECORD_BYTES, core_seconds=0.1)
