"""``mdel completion``, and the functions that complete asset names, keys, models and experiments.

A shell starts the command anew at each press of Tab. So these functions read only the experiment's
YAML and the records on disk, and load neither Dagster nor torch. If the experiment is wrong, they
complete nothing and print nothing.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from mdel_assets.errors import MdelError
from mdel_assets.experiment.families import bundled_families, load_family
from mdel_assets.experiment.loading import bundled_experiments, load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.line.kind import only_one
from mdel_assets.line.lineage import Lineage

_SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_MDEL_COMPLETE"
# Click's script for fish cuts a completion at its first comma, and lists of keys have commas.
_FISH_SPLIT, _FISH_SPLIT_ONCE = 'string split ","', 'string split --max 1 ","'
_Complete = Callable[[click.Context, click.Parameter, str], list[str]]


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    r"""Print the script that lets SHELL complete mdel's commands, assets, partitions and models.

    \b
    bash: eval "$(mdel completion bash)" in ~/.bashrc
    zsh:  eval "$(mdel completion zsh)" in ~/.zshrc, after compinit
    fish: mdel completion fish > ~/.config/fish/completions/mdel.fish
    """
    found: Any = get_completion_class(shell)
    root = click.get_current_context().find_root().command
    script = found(root, {}, "mdel", _VARIABLE).source()
    click.echo(script.replace(_FISH_SPLIT, _FISH_SPLIT_ONCE))


def _completing(find: Callable[[Lineage, click.Context, str], Iterable[str]]) -> _Complete:
    """Return a completer: of the names that ``find`` returns, those that begin as typed."""

    @functools.wraps(find)
    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        # The option of mdel plan.
        name = context.params.get("name") or experiment_name()
        try:
            lineage = MdelHome.from_environment().lineage(load_experiment(name))
            found = list(find(lineage, context, incomplete))
        except (MdelError, OSError):
            return []
        return [entry for entry in found if entry.startswith(incomplete)]

    return complete


@_completing
def complete_asset(lineage: Lineage, context: click.Context, incomplete: str) -> Iterable[str]:
    """Complete an asset of the line."""
    return lineage.kinds()


@_completing
def complete_partitioned_asset(
    lineage: Lineage, context: click.Context, incomplete: str
) -> Iterable[str]:
    """Complete an asset that has partitions."""
    kinds = lineage.registry.values()
    is_in = lineage.experiment
    return [kind.name for kind in kinds if kind.keys is not only_one and kind.is_in(is_in)]


@_completing
def complete_partitions(lineage: Lineage, context: click.Context, incomplete: str) -> Iterable[str]:
    """Complete the last of several partitions, with commas between them, of ``--asset``."""
    kind = context.params.get("asset")
    if kind not in lineage.registry:
        return []
    before, comma, _ = incomplete.rpartition(",")
    taken = before.split(",")
    words = [] if comma else ["all", "stale"]
    keys = [key for key in keys_of(lineage, kind) if key not in taken]
    return [*words, *(f"{before}{comma}{key}" for key in keys)]


@_completing
def complete_domain(lineage: Lineage, context: click.Context, incomplete: str) -> Iterable[str]:
    """Complete the key of a domain."""
    return lineage.experiment.domain_keys


@_completing
def complete_speaker(lineage: Lineage, context: click.Context, incomplete: str) -> Iterable[str]:
    """Complete a model that was made, or an ensemble of such models."""
    from mdel_assets.generation.speakers import Speakers

    return Speakers(lineage).names()


def completing_keys_of(kinds: dict[str, str], *, parameter: str) -> _Complete:
    """Return a completer of keys; ``kinds`` maps the value of another parameter to their kind."""

    def find(lineage: Lineage, context: click.Context, incomplete: str) -> Iterable[str]:
        kind = kinds.get(context.params.get(parameter) or "")
        return keys_of(lineage, kind) if kind else []

    return _completing(find)


def complete_experiment(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Complete the name of a bundled experiment or setting; if none begins as typed, a file."""
    families = [load_family(name).experiment_names().values() for name in bundled_families()]
    known = [*bundled_experiments(), *(name for family in families for name in family)]
    names = [name for name in known if name.startswith(incomplete)]
    if not names:
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(name) for name in names]


def keys_of(lineage: Lineage, kind: str) -> list[str]:
    """Return a kind's keys; all that the experiment names if it is not known which there are.

    Raises:
        ExperimentError: the kind is of shards, and the sources hold none.

    """
    try:
        return lineage.keys(kind)
    except MdelError:
        return list(lineage.registry[kind].keys(lineage.experiment))
