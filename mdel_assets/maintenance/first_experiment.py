"""Write a first experiment for a corpus that was looked at, as YAML with reasons in comments."""

import dataclasses
import json
import math
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from mdel_assets.data.held_out import allows_a_verdict, fraction_for
from mdel_assets.data.look import CorpusLook, LabelCount
from mdel_assets.errors import ExperimentError
from mdel_assets.experiment.fields import Source
from mdel_assets.experiment.loading import bundled_experiments
from mdel_assets.experiment.schema import SCHEMA_PATH
from mdel_assets.experiment.section import MAX_NAME_LENGTH, name_mistake
from mdel_assets.experiment.shard_locations import write_out
from mdel_assets.planning.first_choice import Choice, Machine, Sizes, chosen_domains, sizes_for

_WIDTH = 100
_NUM_SHOWN = 12
# So many files are listed; more become a glob where one matches just them.
_NUM_LISTED = 3
_DEFAULTS = Source(train=("any",))
_TRAININGS = """\
seed_model:
  pretrain:
    model: {{model_type: gpt_neox, hidden_size: {hidden_size}, num_hidden_layers: {num_layers},
            num_attention_heads: {num_heads}, intermediate_size: {intermediate_size},
            max_position_embeddings: {max_positions}, tie_word_embeddings: false,
            attention_dropout: 0.0, hidden_dropout: 0.0}}
    vocab_size: {vocab_size}
    learning_rate: {seed_rate}
    lr_schedule: constant_with_warmup
    weight_decay: 0.01
    block_size: {block_size}
    batch_size: {batch_size}
    dtype: {dtype}
    num_tokens: {seed_tokens}
training:
  trained_layers: all
  learning_rate: {expert_rate}
  block_size: {block_size}
  batch_size: {batch_size}
  dtype: {dtype}
  num_tokens: {expert_tokens}  # of each expert"""
_EVALUATION = """\
baselines: {{dense: true, dense_one: true}}
merges:
  mean-all: {{merge_method: linear, models: [{{model: "expert:*"}}]}}
evaluation:
  max_length: {block_size}
  splits: [validation_domain]
  max_tokens: 100000  # of each domain; more make the intervals narrower"""


@dataclasses.dataclass(frozen=True)
class FirstExperiment:
    """An experiment's YAML, and the sentences in it about what its user should decide."""

    yaml: str
    doubts: tuple[str, ...]


def first_experiment(
    name: str, look: CorpusLook, *, folder: Path, machine: Machine
) -> FirstExperiment:
    """Return the experiment ``name`` that will be a file in ``folder``.

    Raises:
        ExperimentError: the name is not allowed, or the name of a file cannot be written.
        ShardError: the corpus holds too few documents.

    """
    if mistake := name_mistake(name):
        raise ExperimentError(mistake)
    if name in bundled_experiments():
        raise ExperimentError(f"'{name}' is the name of a bundled experiment. Choose another.")
    choice = chosen_domains(look)
    sizes = sizes_for(choice.domain_bytes, machine)
    doubts = (*look.doubts, *_doubts_about(look, choice))
    parts = [
        f"# yaml-language-server: $schema={SCHEMA_PATH.as_uri()}",
        *_what_was_seen(look, doubts),
        f"name: {_quoted(name)}",
        *_source(look, choice, folder),
        *_domains(look, choice),
        *_trainings(sizes, machine),
        _EVALUATION.format(block_size=sizes.block_size),
    ]
    return FirstExperiment("\n".join(parts) + "\n", doubts)


def _comment(text: str, *, indent: str = "") -> list[str]:
    """Return a comment in lines; a label or path in it cannot break out of them."""
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    further = f"{indent}#   " if text.startswith("- ") else f"{indent}# "
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=further)


def _doubts_about(look: CorpusLook, choice: Choice) -> Iterator[str]:
    """Yield what speaks against the chosen domains."""
    if choice.clusters and look.counts.labels:
        told = _shown(look.counts.labels)
        yield f"Fewer than two labels have enough text, so clusters take their place: {told}."
    elif choice.clusters:
        yield "No field or folder names a domain, so domains are found by clustering."
    if not allows_a_verdict(choice.num_documents):
        yield (
            f"The smallest domain has about {choice.num_documents} documents. A verdict needs 16 "
            f"held-out ones of each domain, and training needs the others: add text."
        )


def _what_was_seen(look: CorpusLook, doubts: Sequence[str]) -> list[str]:
    counts = look.counts
    whole = "that is all of them" if counts.is_whole else "a part of them"
    return [
        *_comment(
            f"Written by mdel new, which read {counts.num_seen:,} records ({whole}). The corpus "
            f"holds about {counts.num_documents:,} documents with {_size(counts.num_bytes)} of "
            f"text. Check changes with mdel check; mdel plan says what a run takes."
        ),
        *(["# To decide:"] if doubts else []),
        *(line for doubt in doubts for line in _comment(f"- {doubt}")),
    ]


def _size(num_bytes: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.3g} {unit}"
    return f"{num_bytes} bytes"


def _shown(labels: Sequence[LabelCount]) -> str:
    """Return labels with their documents, the first ones of many."""
    shown = [f"{label.name} {label.num_documents:,}" for label in labels[:_NUM_SHOWN]]
    more = len(labels) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _source(look: CorpusLook, choice: Choice, folder: Path) -> list[str]:
    places, counts = look.places, look.counts
    train, unwanted = _wanted(look, choice)
    lines = ["source:", f"  layout: {look.layout}"]
    if unwanted:
        names = ", ".join(place.name for place in unwanted[:_NUM_SHOWN])
        told = f"Not read, because they hold no document of a domain: {names}."
        lines += _comment(told, indent="  ")
    lines += ["  train:", *(f"    - {_quoted(one)}" for one in _patterns(train, folder))]
    for role, place in (("validation", places.validation), ("test", places.test)):
        if place:
            lines.append(f"  {role}: {_quoted(_written(place, folder))}  # by its name")
    if look.text_field != _DEFAULTS.text_field:
        lines.append(f"  text_field: {_quoted(look.text_field)}")
    if look.layout == "columns" and look.domain_field and choice.domains:
        lines.append(f"  domain_field: {_quoted(look.domain_field)}")
    if choice.left_out:
        told = f"{len(choice.left_out)} other labels are left out: {_shown(choice.left_out)}."
        lines += [*_comment(told, indent="  "), "  other_labels: leave_out"]
    elif choice.domains and not counts.is_whole:
        told = "Not every record was read: documents with labels that were not seen are left out."
        lines += [*_comment(told, indent="  "), "  other_labels: leave_out"]
    if counts.reject_rate > _DEFAULTS.max_reject_rate:
        told = f"{counts.reject_rate:.2g} of the records lack a text or a label."
        allowed = min(1.0, math.ceil(200 * counts.reject_rate) / 100)
        lines += [*_comment(told, indent="  "), f"  max_reject_rate: {allowed:g}"]
    if not (places.validation and places.test):
        fraction = fraction_for(choice.num_documents, least=_DEFAULTS.holdout_fraction)
        lines += [
            *_comment("Of the training documents, for each of validation and test:", indent="  "),
            f"  holdout_fraction: {fraction:g}",
        ]
    return lines


def _wanted(look: CorpusLook, choice: Choice) -> tuple[list[Path], list[Path]]:
    """Return the train shards, and those that were read and hold no document of a domain."""
    known = {name for label in choice.domains for name in (label.name, *label.aliases)}
    wanted: list[Path] = []
    unwanted: list[Path] = []
    for place in look.places.train:
        labels = look.counts.labels_of.get(place)
        is_wanted = labels is None or (labels if choice.clusters else labels & known)
        (wanted if is_wanted else unwanted).append(place)
    if choice.clusters and look.layout != "folders":
        # Clusters are found in the first shard.
        wanted.sort(key=lambda place: -place.stat().st_size)
    return wanted, unwanted


def _patterns(places: Sequence[Path], folder: Path) -> list[str]:
    """Return globs or paths that stand for just these shards, in this order."""
    parents = {place.parent for place in places}
    if len(places) > _NUM_LISTED and len(parents) == 1:
        endings = {"".join(place.suffixes[-2:]) for place in places}
        if len(endings) == 1:
            around = _glob_of(_written(next(iter(parents)), folder))
            pattern = f"{around}/*{endings.pop()}"
            if write_out(pattern, folder=str(folder)) == [str(_placed(p)) for p in places]:
                return [pattern]
    return [_glob_of(_written(place, folder)) for place in places]


def _placed(place: Path) -> Path:
    return Path(place).absolute()


def _written(place: Path, folder: Path) -> str:
    """Return a path as the YAML has it: from its own folder on, if it is inside of that."""
    place, folder = _placed(place), folder.absolute()
    text = str(place.relative_to(folder)) if place.is_relative_to(folder) else str(place)
    if not text.isprintable() or re.search(r"\{[^{}]*(\.\.|,)[^{}]*\}", text) or "://" in text:
        raise ExperimentError(f"The name {text!r} cannot be written into an experiment: rename it.")
    return f"./{text}" if text.startswith("~") else text


def _glob_of(text: str) -> str:
    return re.sub(r"[*?\[]", r"[\g<0>]", text)


def _quoted(text: str) -> str:
    """Return text as YAML, in quotes where it would be read as something else."""
    is_plain = re.fullmatch(r"[A-Za-z][\w./-]*", text, re.ASCII) and yaml.safe_load(text) == text
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _domains(look: CorpusLook, choice: Choice) -> list[str]:
    if choice.clusters:
        return [
            "# Domains are found by clustering the text.",
            f"domains: {{clusters: {choice.clusters}}}",
        ]
    lines = _comment(
        "One expert is trained for each domain. A key names its folder; a name is its label in "
        "the corpus. Behind each: about how many documents and how much text it has."
    )
    lines.append("domains:")
    for key, label in zip(_keys(choice.domains), choice.domains, strict=True):
        aliases = f", aliases: [{', '.join(map(_quoted, label.aliases))}]"
        lines.append(
            f"  - {{key: {_quoted(key)}, name: {_quoted(label.name)}"
            f"{aliases if label.aliases else ''}}}  "
            f"# {label.num_documents:,}, {_size(label.num_bytes)}"
        )
    return lines


def _keys(labels: Iterable[LabelCount]) -> list[str]:
    """Return a key for each label: its letters and digits, with a number where two are the same."""
    keys: list[str] = []
    for label in labels:
        plain = unicodedata.normalize("NFKD", label.name).encode("ascii", "ignore").decode()
        slug = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")[: MAX_NAME_LENGTH - 10]
        slug = slug or "domain"
        number, key = 1, slug
        while key in keys:
            number += 1
            key = f"{slug}_{number}"
        keys.append(key)
    return keys


def _trainings(sizes: Sizes, machine: Machine) -> list[str]:
    reason = (
        f"The seed model is a small one, pretrained on the corpus itself. Its size is chosen by "
        f"the amount of text and this machine: {machine.in_words()}. A model of the Hub, or a "
        f"folder made by save_pretrained, can take its place:"
    )
    settings = _TRAININGS.format(
        **dataclasses.asdict(sizes),
        intermediate_size=4 * sizes.hidden_size,
        max_positions=2 * sizes.block_size,
        # With a point and an exponent, YAML reads it as a number.
        seed_rate=f"{sizes.seed_learning_rate:.1e}".replace("e-0", "e-"),
        expert_rate=f"{sizes.expert_learning_rate:.1e}".replace("e-0", "e-"),
    )
    return [
        "# Experts read text of their own domain only.",
        "mixture: {general_ratio: 0.0}",
        *_comment(reason),
        "#   seed_model: {path: EleutherAI/pythia-160m}",
        settings,
    ]
