"""The card of a merged model: the README.md in its folder, which the Hub shows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

CARD_NAME = "README.md"


def model_card(
    title: str,
    *,
    recipe_yaml: str,
    inputs: Mapping[str, str],
    seed: str,
    result: Mapping[str, Any],
    links: Mapping[str, str] | None = None,
    licences: Mapping[str, str | None] | None = None,
    corpus_licences: Sequence[str] | None = None,
    search: Sequence[str] = (),
    perplexity: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the card as Markdown, with the front matter that the Hub reads.

    ``inputs`` maps the models of the merge to their fingerprints, ``links`` to addresses, and
    ``licences`` to the licences that their own cards state, or None. ``corpus_licences`` are those
    that documents of the corpus may have, None for any. ``seed`` describes the model that the
    models branched from, ``result`` is a `MergeResult` as a dictionary, ``search`` has sentences on
    how the weights were found, and ``perplexity`` the rows of the model's report. The card says
    nothing about the machine.
    """
    front = licence_line(licences or {})
    parts = [
        f"""---
library_name: transformers
pipeline_tag: text-generation
{front}tags:
- merge
- mdel
---

# {title}

A merge of models that branched from one seed model ({seed}), made by MDEL assets. It has
{result["num_parameters"]:,} parameters in {result["num_tensors"]} tensors, of which
{result["num_copied_tensors"]} are equal in all inputs and were copied. Its licence follows from its
inputs: see the licences of the seed model and of the corpus.

## Recipe

In mergekit's schema. `mergekit_config.yml`, in the model's folder, has the same recipe.

```yaml
{recipe_yaml.rstrip()}
```
""",
        _search_section(search),
        inputs_section(inputs, links or {}, licences, corpus_licences),
        _perplexity_section(perplexity),
    ]
    return "\n".join(part for part in parts if part)


def _search_section(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    lines = "\n".join(f"- {sentence}" for sentence in sentences)
    return f"A search on validation text found the weights; test text judged them:\n\n{lines}\n"


def licence_line(licences: Mapping[str, str | None]) -> str:
    """Return the front matter's line on the one licence that all models have; else nothing."""
    known = {licence for licence in licences.values() if licence}
    is_one = len(known) == 1 and None not in licences.values()
    return f"license: {known.pop().lower()}\n" if is_one else ""


def inputs_section(
    inputs: Mapping[str, str],
    links: Mapping[str, str],
    licences: Mapping[str, str | None] | None,
    corpus_licences: Sequence[str] | None,
) -> str:
    """Return the section of a card on what the model is made of; arguments as `model_card` has."""
    columns = ["model", "fingerprint"]
    columns += ["where"] if links else []
    columns += ["licence"] if licences is not None else []
    rows = []
    for name, fingerprint in inputs.items():
        cells = [f"`{name}`", f"`{fingerprint}`"]
        if links:
            address = links.get(name)
            cells.append(f"[{_shown(address)}]({address})" if address else "–")
        if licences is not None:
            cells.append((licences[name] or "not stated") if name in licences else "–")
        rows.append(cells)
    lines = [columns, ["---"] * len(columns), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    text = f"## Inputs\n\n{table}\n\n"
    if corpus_licences is not None:
        text += (
            f"Documents of the corpus have one of these licences: {', '.join(corpus_licences)}.\n\n"
        )
    return (
        text + "A fingerprint covers a model's configuration and everything it was made from; "
        "`record.json`\nhas the fingerprint of this model.\n"
    )


def _perplexity_section(rows: Sequence[Mapping[str, Any]]) -> str:
    scored = [row for row in rows if row["num_bytes"]]
    if not scored:
        return ""
    lines = [
        "| domain | split | bits per byte | 95 % interval | perplexity per token | documents |",
        "|---|---|---:|---:|---:|---:|",
        *(
            f"| {row['dataset']} | `{row['split']}` | {row['bits_per_byte']:.4f} | "
            f"{row['bits_per_byte_low']:.4f} to {row['bits_per_byte_high']:.4f} | "
            f"{row['perplexity']:.2f} | {row['num_documents']} |"
            for row in scored
        ),
    ]
    return "## Perplexity\n\n" + "\n".join(lines) + "\n"


def _shown(address: str) -> str:
    """Return an address as a link shows it."""
    return re.sub(r"^(https://|(\.\./)+)", "", address)
