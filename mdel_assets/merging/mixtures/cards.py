"""The card of a mixture of experts, from what the records of its experiment say."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdel_assets.line.lineage import Lineage
from mdel_assets.merging.merged_cards import shown_seed
from mdel_assets.merging.mixtures.contents import GENERAL
from mdel_assets.merging.model_card import inputs_section, licence_line
from mdel_assets.model_families.mixture_family import read_content
from mdel_assets.training.stated_licences import stated_licence

_ROUTERS = {
    "domains": "Its gates are not trained. An expert's row is the mean direction of the seed's "
    "hidden states on the\ntraining text of the expert's domain, so that experts can join and "
    "leave while the rows of the others stay.",
    "trained": "Its gates were trained on text of all domains, with a load-balancing loss; all "
    "other weights stayed.",
}


def card_of_mixture(
    lineage: Lineage,
    name: str,
    *,
    inputs: Mapping[str, str],
    folder: Path,
    details: Mapping[str, Any],
    is_published: bool = False,
) -> str:
    """Return the card of the mixture in ``folder``, which is made of ``inputs``, by label.

    ``details`` are those of its record. Nothing of the machine is in it, and where ``is_published``
    no place on its disk.
    """
    experiment = lineage.experiment
    config = read_content(folder)
    links = {} if is_published else _links(lineage, name, inputs)
    licences = _licences(lineage, inputs)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
{licence_line(licences)}tags:
- moe
- mdel
---

# {name} ({experiment.name})

A mixture of experts ({config["architectures"][0]}), made by MDEL assets of models that branched
from one seed model ({shown_seed(experiment, is_published=is_published)}). Its licence
is that of its inputs: see those of the seed model and of the corpus.

{active_sentence(details, experts_per_token=config["num_experts_per_tok"])}

Experts, in the order of the gates' rows: {_named(details["experts"])}.
{_shared_sentence(details["num_mean_tensors"])}

{_ROUTERS[details["router"]]}

{inputs_section(inputs, links, licences, experiment.source.licenses)}"""


def active_sentence(details: Mapping[str, Any], *, experts_per_token: int) -> str:
    """Return what a token costs, as a sentence."""
    total, active = details["num_parameters"], details["num_active_parameters"]
    return (
        f"A token goes through {experts_per_token} of {len(details['experts'])} experts in each of "
        f"{len(details['mixture_layers'])} mixture layers: {active:,} of {total:,} weights are "
        f"active ({active / total:.0%})."
    )


def _named(experts: list[str]) -> str:
    shown = [f"`{e}`" + " (the seed's own feed-forward)" * (e == GENERAL) for e in experts]
    return ", ".join(shown)


def _shared_sentence(num_means: int) -> str:
    if not num_means:
        return "Everything but their feed-forward blocks is the seed's."
    return (
        f"Besides their feed-forward blocks they trained {num_means} tensors, of which this has "
        f"the mean;\nall else is the seed's."
    )


def _links(lineage: Lineage, name: str, inputs: Mapping[str, str]) -> dict[str, str]:
    """Return where each input lies, relative to the mixture's folder."""
    home = lineage.folder("moe_model", name)
    artifacts = lineage.inputs("moe_model", name)
    return {
        a.label: Path(os.path.relpath(a.folder, home)).as_posix()
        for a in artifacts
        if a.label in inputs
    }


def _licences(lineage: Lineage, inputs: Mapping[str, str]) -> dict[str, str | None]:
    """Return each model's own licence; one without has the seed's, which it branched from."""
    seed = lineage.artifact("seed_model")
    of_seed = seed.require().details.get("licence")
    models = [seed, *(lineage.artifact("expert_model", d) for d in lineage.present_domains())]
    return {a.label: stated_licence(a.folder) or of_seed for a in models if a.label in inputs}
