"""The cards of experts, of merged models and of mixtures."""

from collections.abc import Mapping, Sequence
from typing import Any

from mdel_assets.data.dataset_counts import DatasetCounts
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.line.lineage import Lineage
from mdel_assets.merging.merged_cards import merged_model_card
from mdel_assets.merging.mixtures.cards import card_of_mixture
from mdel_assets.publishing.card_figures import Figures, figures_markdown, model_index
from mdel_assets.publishing.card_texts import texts_section
from mdel_assets.publishing.cards import (
    base_model,
    front_matter,
    languages_of,
    licence_section,
    load_adapter_snippet,
    load_model_snippet,
    provenance_section,
    seed_in_words,
    shard_rows,
    without_front_matter,
)
from mdel_assets.store.records import Record
from mdel_assets.training.adapters import ADAPTER_FOLDER
from mdel_assets.training.results import ExpertResult

_LICENCE = {"license": "other", "license_name": "see-licence-and-sources"}
_SETTINGS_LEFT_OUT = {"trained_layers", "micro_batch_size", "cache_prefix"}


def expert_card(
    lineage: Lineage,
    domain: str,
    *,
    title: str,
    name: str,
    figures: Figures,
    domains: Sequence[str],
    datasets: Mapping[str, str],
) -> str:
    """Return the card of the expert of ``domain``.

    ``title`` is the repository's own name, ``name`` the name to load the model by.

    ``domains`` are those of its training text, ``datasets`` maps published domains to
    ``repository@revision``.
    """
    experiment = lineage.experiment
    artifact = lineage.artifact("expert_model", domain)
    record = artifact.require()
    label = experiment.require_domain(domain).name
    repositories = _repositories(datasets)
    seed = base_model(experiment)
    metadata = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": languages_of(experiment, domains),
        **_LICENCE,
        "base_model": seed,
        "base_model_relation": "finetune" if seed else None,
        "datasets": [repositories[domain]] if domain in repositories else [],
        "tags": ["mdel", "expert", domain],
        "model-index": model_index(title, figures, datasets=repositories),
    }
    return f"""{front_matter(metadata)}
# {title}

An expert language model for {label}: {seed_in_words(lineage)}, trained further on the domain
`{domain}` of the experiment `{experiment.name}`, made by MDEL assets. Experts that branched from
the same seed can be merged, or combined token by token.

## How to load it

{load_model_snippet(name)}
{_adapter_section(record, name, seed=seed)}## How good it is

{figures_markdown(figures)}
{texts_section(lineage, figures.model, domains)}## Training

{_training_section(record)}

## Licence and sources

It was trained on text from these sources. The seed model's licence applies, too.

{licence_section(experiment, domains)}
## Provenance

{provenance_section(record, artifact, also=_text_rows(lineage, datasets, [domain]))}"""


def merged_card(
    lineage: Lineage,
    recipe: str,
    *,
    title: str,
    name: str,
    figures: Figures,
    domains: Sequence[str],
    datasets: Mapping[str, str],
    members: Sequence[str],
    experts: Sequence[str],
) -> str:
    """Return the card of the merged model of ``recipe``; as `expert_card`.

    ``members`` are the domains of its experts, ``experts`` their repositories, if published. The
    sections on recipe and inputs are taken from the model's own card.
    """
    experiment = lineage.experiment
    artifact = lineage.artifact("merged_model", recipe)
    record = artifact.require()
    repositories = _repositories(datasets)
    metadata = {
        **_made_of_experts(experiment, domains, experts, repositories),
        "tags": ["mdel", "merge", record.config["merge_method"]],
        "model-index": model_index(title, figures, datasets=repositories),
    }
    told = merged_model_card(lineage, recipe, is_published=True)
    rows = _text_rows(lineage, datasets, members)
    provenance = provenance_section(record, artifact, also=rows)
    return front_matter(metadata) + _made_of_models(
        lineage, told, title=title, name=name, figures=figures, domains=domains, last=provenance
    )


def mixture_card(
    lineage: Lineage,
    mixture: str,
    *,
    title: str,
    name: str,
    figures: Figures,
    domains: Sequence[str],
    datasets: Mapping[str, str],
    members: Sequence[str],
    experts: Sequence[str],
) -> str:
    """Return the card of a mixture of experts; as `merged_card`."""
    experiment = lineage.experiment
    artifact = lineage.artifact("moe_model", mixture)
    record = artifact.require()
    repositories = _repositories(datasets)
    metadata = {
        **_made_of_experts(experiment, domains, experts, repositories),
        "tags": ["mdel", "moe"],
        "model-index": model_index(title, figures, datasets=repositories),
    }
    told = card_of_mixture(
        lineage,
        mixture,
        inputs=record.inputs,
        folder=artifact.folder,
        details=record.details,
        is_published=True,
    )
    rows = _text_rows(lineage, datasets, members)
    return front_matter(metadata) + _made_of_models(
        lineage,
        told,
        title=title,
        name=name,
        figures=figures,
        domains=domains,
        last=provenance_section(record, artifact, also=rows),
    )


def _made_of_experts(
    experiment: Experiment,
    domains: Sequence[str],
    experts: Sequence[str],
    repositories: Mapping[str, str],
) -> dict[str, Any]:
    """Return what the front matter of a model made of published ``experts`` begins with."""
    seed = base_model(experiment)
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": languages_of(experiment, domains),
        **_LICENCE,
        "base_model": list(experts) or seed,
        "base_model_relation": "merge" if experts or seed else None,
        "datasets": sorted(set(repositories.values())),
    }


def _made_of_models(
    lineage: Lineage,
    told: str,
    *,
    title: str,
    name: str,
    figures: Figures,
    domains: Sequence[str],
    last: str,
) -> str:
    """Return what the card of a model that is made of others says; ``told`` by its own card."""
    return f"""
# {title}

{without_front_matter(told)}

## How to load it

{load_model_snippet(name)}
## How good it is

{figures_markdown(figures)}
{texts_section(lineage, figures.model, domains)}## Licence and sources

Its inputs were trained on text from these sources. The seed model's licence applies, too: the seed
is {seed_in_words(lineage)}.

{licence_section(lineage.experiment, domains)}
## Provenance

{last}"""


def one_off_card(
    experiment: Experiment,
    *,
    title: str,
    name: str,
    merge_method: str,
    told: str,
    base_models: Sequence[str],
    domains: Sequence[str],
) -> str:
    """Return the card of a merge outside the graph; ``told`` is the card in its folder."""
    metadata = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": languages_of(experiment, domains),
        **_LICENCE,
        "base_model": list(base_models),
        "base_model_relation": "merge" if base_models else None,
        "tags": ["mdel", "merge", merge_method],
    }
    sources = (
        f"Inputs of the experiment `{experiment.name}` were trained on text from these sources.\n\n"
        f"{licence_section(experiment, domains)}"
        if domains
        else "See the cards of its inputs.\n"
    )
    return f"""{front_matter(metadata)}
# {title}

{without_front_matter(told)}

## How to load it

{load_model_snippet(name)}
## How good it is

It was not measured.

## Licence and sources

{sources}"""


def _training_section(record: Record) -> str:
    """Return the section on trained layers, amount of text, and settings."""
    result = ExpertResult.of(record.details)
    layers = ", ".join(map(str, result.trained_layers))
    settings = "\n".join(
        f"| {key} | {value} |"
        for key, value in record.config.items()
        if key not in _SETTINGS_LEFT_OUT and value is not None
    )
    size = f"{result.num_trained_parameters:,} parameters"
    trained = f"Layers {layers} were trained ({size}); the\nother"
    if record.config.get("adapter"):
        trained = f"Adapters in layers {layers} were trained ({size})\nand merged into the weights;"
    return f"""{trained} {result.num_frozen_parameters:,} equal the seed's to the bit. It read
{result.history.num_tokens:,} tokens in {result.history.num_steps:,} steps.

| setting | |
|---|---|
{settings}
"""


def _adapter_section(record: Record, name: str, *, seed: str | None) -> str:
    """Return how the adapter that an expert was trained as is loaded; nothing if there is none."""
    if not record.config.get("adapter"):
        return ""
    snippet = load_adapter_snippet(name, folder=ADAPTER_FOLDER, seed=seed)
    return f"""This model is the seed with a LoRA adapter merged into its weights. The adapter alone
is in the folder `{ADAPTER_FOLDER}`, for PEFT and for servers that load adapters:

{snippet}
"""


def _repositories(datasets: Mapping[str, str]) -> dict[str, str]:
    return {domain: place.partition("@")[0] for domain, place in datasets.items()}


def _text_rows(
    lineage: Lineage, datasets: Mapping[str, str], domains: Sequence[str]
) -> list[tuple[str, str]]:
    """Return a row for the training text of each domain, and for each shard of the corpus."""
    rows = []
    for key in domains:
        record = lineage.artifact("domain_dataset", key).read_record()
        told = [f"`{datasets[key]}`"] if key in datasets else []
        if record:
            train = DatasetCounts.of(record.counts).splits["train"]
            told.append(f"{train.num_documents:,} documents, {train.num_bytes:,} bytes")
        if told:
            rows.append((f"training text of {key}", "; ".join(told)))
    return [*rows, *shard_rows(lineage)]
