"""Read an experiment from a YAML file: a bundled one by name, any by path, a family's setting.

Every mistake in the file is refused here, before hours are spent, with the key, the value and the
nearest known name.
"""

from importlib import resources
from pathlib import Path
from typing import Any

from mdel_assets.errors import ExperimentError, listed, unknown_name_message
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.families import setting_of_family
from mdel_assets.experiment.mistakes import all_mistakes
from mdel_assets.experiment.rules import mistakes_between
from mdel_assets.experiment.yaml_mapping import read_mapping

# Replacements for missing or wrong values, so that the rest of an experiment can be checked.
_STAND_INS: dict[str, Any] = {
    "name": "unnamed",
    "source": {"train": ["unnamed"]},
    "source.train": ["unnamed"],
    "seed_model": {"path": "unnamed/unnamed"},
    "training": {"trained_layers": "all"},
    "training.trained_layers": "all",
}
# Sections of named entries; a mistake invalidates a whole entry.
_ENTRIES = ("merges", "mixtures", "variants")


def bundled_experiments() -> list[str]:
    """Return the names of the experiments that ship with the package."""
    folder = resources.files("mdel_assets.experiments")
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_experiment(name_or_path: str) -> Experiment:
    """Read a bundled experiment by name, any YAML file by path, or ``FAMILY/SETTING``.

    Raises:
        ExperimentError: the file does not exist, is not YAML, or holds invalid values: all of them
            are named.

    """
    if found := setting_of_family(name_or_path):
        family, setting = found
        content = family.content(setting)
        return _experiment_of(content, origin=name_or_path, folder=family.folder)
    if name_or_path in bundled_experiments():
        text = resources.files("mdel_assets.experiments").joinpath(f"{name_or_path}.yaml")
        return parse_experiment(text.read_text("utf-8"), origin=name_or_path)
    path = Path(name_or_path)
    if not path.is_file():
        known = unknown_name_message("experiment", name_or_path, bundled_experiments())
        raise ExperimentError(
            f"{known} There is no file of that name, either. Check MDEL_EXPERIMENT."
        )
    try:
        text_of_file = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(
            f"{path} cannot be read: {error}. Give a YAML file in UTF-8 that you may read."
        ) from error
    return parse_experiment(text_of_file, origin=str(path), folder=path.absolute().parent)


def parse_experiment(text: str, *, origin: str, folder: Path | None = None) -> Experiment:
    """Return the experiment that ``text`` describes; ``origin`` names it in messages.

    Relative paths start at ``folder``, or at the working folder if it is None.

    Raises:
        ExperimentError: it is not YAML, or holds invalid values: all of them are named.

    """
    return _experiment_of(read_mapping(text, origin=origin), origin=origin, folder=folder)


def _experiment_of(content: dict[Any, Any], *, origin: str, folder: Path | None) -> Experiment:
    """Return the experiment that ``content`` describes; raises as `parse_experiment`."""
    if "folder" in content:
        raise ExperimentError(f"{origin}: Unknown key 'folder'. Remove it.")
    if folder is not None:
        content |= {"folder": str(folder)}
    experiment, found = all_mistakes(Experiment, content, stand_ins=_STAND_INS, entries=_ENTRIES)
    mistakes = list(found.values())
    if experiment is not None:
        mistakes += mistakes_between(experiment, wrong=found)
    if experiment is None or mistakes:
        raise ExperimentError(f"{origin}{listed(mistakes)}")
    return experiment
