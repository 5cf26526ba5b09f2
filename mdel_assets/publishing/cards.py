"""Common parts of the cards of datasets, experts and merged models.

A card is the README.md that the Hub shows: metadata in YAML, then what the repository holds, how to
load it, how good it is, and where it comes from. It says nothing about the machine and contains no
secret.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import yaml

from mdel_assets.data.shard_counts import ShardCounts
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.hub.sources import hub_reference
from mdel_assets.line.lineage import Lineage
from mdel_assets.publishing.licences import source_note
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record

CARD_NAME = "README.md"


def front_matter(metadata: Mapping[str, Any]) -> str:
    """Return the YAML block that opens a card; empty entries are left out."""
    filled = {name: value for name, value in metadata.items() if value not in (None, [], "", {})}
    return f"---\n{yaml.safe_dump(filled, sort_keys=False, allow_unicode=True)}---\n"


def load_model_snippet(name: str) -> str:
    """Return runnable code that loads a model and generates text."""
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
prompt = tokenizer("The", return_tensors="pt")
output = model.generate(input_ids=prompt["input_ids"], max_new_tokens=20, do_sample=False)
print(tokenizer.decode(output[0]))
```
"""


def load_adapter_snippet(name: str, *, folder: str, seed: str | None) -> str:
    """Return runnable code that loads a seed model with the adapter in ``folder`` of a model."""
    where = "" if seed else "  # The seed model is not on the Hub: name its folder."
    return f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

seed = AutoModelForCausalLM.from_pretrained("{seed or "SEED"}"){where}
model = PeftModel.from_pretrained(seed, "{name}", subfolder="{folder}")
```
"""


def load_dataset_snippet(name: str) -> str:
    """Return runnable code that loads a dataset, completely or as a stream."""
    return f"""```python
from datasets import load_dataset

documents = load_dataset("{name}", split="train", streaming=True)
print(next(iter(documents))["text"][:200])

whole = load_dataset("{name}")
print(whole)
```
"""


def licence_section(experiment: Experiment, domains: Sequence[str]) -> str:
    """Return the table of source and terms of the text of ``domains``."""
    lines = ["| domain | source | terms |", "|---|---|---|"]
    for key in domains:
        note = source_note(experiment, experiment.require_domain(key))
        mark = " **Under copyright.**" if note.is_restricted else ""
        lines.append(f"| `{key}` | {note.source} | {note.terms}.{mark} |")
    return (
        "\n".join(lines)
        + "\n\nThese notes are not legal advice. MDEL assets grants no rights to the text.\n"
    )


def licence_of(experiment: Experiment, domains: Sequence[str]) -> dict[str, Any]:
    """Return the licence metadata of text from ``domains``: a licence only if all agree on it."""
    found = {source_note(experiment, experiment.require_domain(key)).licence for key in domains}
    if len(found) == 1 and found != {"other"}:
        return {"license": found.pop()}
    return {"license": "other", "license_name": "see-licence-and-sources"}


def languages_of(experiment: Experiment, domains: Sequence[str]) -> list[str]:
    """Return the languages of the text of ``domains``, English first."""
    found = {
        language
        for key in domains
        for language in source_note(experiment, experiment.require_domain(key)).languages
    }
    return sorted(found, key=lambda language: (language != "en", language))


def base_model(experiment: Experiment) -> str | None:
    """Return the seed's Hub id; None if it is not from the Hub."""
    seed = experiment.seed_model
    place = experiment.place_of_model(seed.path or "")
    reference = hub_reference(place, revision=seed.revision)
    return reference.name if reference else None


def seed_in_words(lineage: Lineage) -> str:
    """Return what the seed model is."""
    seed = lineage.artifact("seed_model").read_record()
    fingerprint = f" (fingerprint `{seed.fingerprint}`)" if seed else ""
    if base := base_model(lineage.experiment):
        commit = seed.config.get("commit") if seed else None
        at = f" at commit `{commit}`" if commit else ""
        return f"[{base}](https://huggingface.co/{base}){at}{fingerprint}"
    if lineage.experiment.seed_model.pretrain:
        return f"a model that was pretrained for this experiment{fingerprint}"
    return f"a model that is not on the Hub{fingerprint}"


def provenance_section(
    record: Record, artifact: Artifact, *, also: Iterable[tuple[str, str]] = ()
) -> str:
    """Return the table of an artifact's inputs; ``also`` are further rows."""
    rows = [
        ("experiment", record.experiment),
        ("fingerprint", f"`{record.fingerprint}`"),
        *((f"made from {name}", f"`{value}`") for name, value in record.inputs.items()),
        *also,
        ("made with", ", ".join(f"{name} {text}" for name, text in record.versions.items())),
    ]
    if address := artifact.all_details(record).get("tracked_at"):
        rows.append(("training run", f"<{address}>"))
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    closing = "`record.json` in this repository has the same, with all settings and file digests."
    return "\n".join(lines) + f"\n\n{closing}\n"


def public_place(location: str) -> str:
    """Return a source's location without private parts: user, password, folders."""
    if "://" not in location:
        return location.rstrip("/").rsplit("/", 1)[-1]
    url = urlsplit(location)
    # In hf:// the part after an @ is a revision, not a host after a user.
    host = url.netloc if url.scheme == "hf" else (url.hostname or "")
    return f"{url.scheme}://{host}{url.path}"


def shard_rows(lineage: Lineage) -> list[tuple[str, str]]:
    """Return a row for each shard of the corpus: its source, and counts of documents."""
    rows = []
    for shard in lineage.experiment.shards():
        raw = lineage.artifact("raw_pile_shard", shard.key).read_record()
        routed = lineage.artifact("shard_documents", shard.key).read_record()
        told: list[Any] = [public_place(shard.location)]
        if raw:
            told.append(f"sha256 `{raw.config['sha256']}`")
        if routed:
            counts = ShardCounts.of(routed.counts)
            reasons = ", ".join(f"{name} {count}" for name, count in counts.rejects.items())
            told.append(
                f"{counts.num_documents:,} documents, {counts.num_rejects:,} rejected"
                + (f" ({reasons})" if reasons else "")
            )
        rows.append((f"{shard.role} shard", "; ".join(told)))
    return rows


def without_front_matter(card: str) -> str:
    """Return a card's text below its metadata and its title."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, count=1, flags=re.DOTALL)
    return re.sub(r"\A\s*# [^\n]*\n", "", body, count=1).strip()
