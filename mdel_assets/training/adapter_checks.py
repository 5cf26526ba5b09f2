"""Whether the adapters of an experiment can be trained in its seed model, before anything is."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from mdel_assets.errors import MdelError, TrainingError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.fields import ExpertTraining
from mdel_assets.training.adapters import require_peft


def mistakes_of_adapters(experiment: Experiment, seed_folder: Path | None) -> Iterator[str]:
    """Yield why adapters cannot be trained; ``seed_folder`` has the configuration of a seed.

    None stands for a seed that is pretrained. Nothing is loaded where there are no adapters.
    """
    trainings = list(_with_adapters(experiment))
    if not trainings:
        return
    try:
        require_peft()
    except TrainingError as error:
        yield str(error)
    from mdel_assets.training.model_files import load_config
    from mdel_assets.training.model_sizes import ModelSizes, pretrained_config

    pretrain = experiment.seed_model.pretrain
    try:
        if seed_folder is not None:
            config = load_config(seed_folder)
        elif pretrain:
            config = pretrained_config(pretrain.model, vocab_size=pretrain.vocab_size)
        else:
            return
        model = ModelSizes(config)
    except MdelError:
        # A model that cannot be built is reported elsewhere.
        return
    for place, training in trainings:
        try:
            model.trained(training.trained_layers, training.adapter)
        except TrainingError as error:
            yield f"{place}: {error}" if place else str(error)


def _with_adapters(experiment: Experiment) -> Iterator[tuple[str, ExpertTraining]]:
    """Yield the trainings that have an adapter, and where the YAML has those of a sweep."""
    if experiment.training.adapter:
        yield "", experiment.training
    for name, variant in experiment.variants.items():
        if variant.training.keys() & {"adapter", "trained_layers"}:
            # Wrong settings are reported elsewhere.
            with contextlib.suppress(ValidationError):
                training = experiment.variant_training(name)
                if training.adapter:
                    yield f"variants.{name}", training
