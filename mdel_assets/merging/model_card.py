"""The card of a merged model: the README.md that lies beside it, and that the Hub shows."""

from collections.abc import Mapping
from typing import Any

CARD_NAME = "README.md"


def model_card(
    title: str,
    *,
    recipe_yaml: str,
    inputs: Mapping[str, str],
    seed: str,
    result: Mapping[str, Any],
) -> str:
    """Return the card as Markdown, with the front matter that the Hub reads.

    ``inputs`` maps the models of the merge to their fingerprints, ``seed`` says what they branched
    from, ``result`` is a `MergeResult` as a dictionary. Nothing of the machine is in it.
    """
    rows = "\n".join(f"| `{name}` | `{fingerprint}` |" for name, fingerprint in inputs.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- merge
- mdel
---

# {title}

A merge of models that branched from one seed model ({seed}), made by MDEL assets. It has
{result["num_parameters"]:,} parameters in {result["num_tensors"]} tensors, of which
{result["num_copied_tensors"]} are equal in all inputs and were copied. Its licence is that of its
inputs: see those of the seed model and of the corpus.

## Recipe

In mergekit's words, as it lies beside the model in `mergekit_config.yml`:

```yaml
{recipe_yaml.rstrip()}
```

## Inputs

| model | fingerprint |
|---|---|
{rows}

A fingerprint covers a model's configuration and everything that it was made from; `record.json`
holds this model's own.
"""
