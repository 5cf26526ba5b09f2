"""Read an experiment's YAML into plain values, more strictly than YAML itself.

Repeated keys, excessive nesting, and aliases that expand to too many values are mistakes here.
"""

from collections.abc import Hashable
from typing import Any

import yaml

from mdel_assets.errors import ExperimentError, listed

_MAX_DEPTH = 40
_MAX_VALUES = 100_000


def read_mapping(text: str, *, origin: str) -> dict[Any, Any]:
    """Return the mapping that ``text`` holds; ``origin`` names it in messages.

    Raises:
        ExperimentError: it is not YAML or not a mapping, or keys are repeated; all such keys are
            named.

    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        mistakes = _mistakes_in(node)
        content = None if mistakes or node is None else loader.construct_document(node)
    except RecursionError:
        mistakes = [_too_deep()]
    except (yaml.YAMLError, ValueError) as error:
        raise ExperimentError(f"{origin} is not YAML: {error}") from error
    if mistakes:
        raise ExperimentError(f"{origin}{listed(mistakes)}")
    if not isinstance(content, dict):
        raise ExperimentError(f"{origin} must be a mapping of keys, as in experiments/sample.yaml.")
    return content


def _mistakes_in(root: yaml.Node | None) -> list[str]:
    """Return a sentence for each repeated key, or one about too much nesting or expansion."""
    found: list[str] = []
    waiting: list[tuple[yaml.Node | None, int]] = [(root, 0)]
    num_values = 0
    while waiting:
        node, depth = waiting.pop()
        num_values += 1
        if depth > _MAX_DEPTH:
            return [_too_deep()]
        if num_values > _MAX_VALUES:
            much = f"it expands to more than {_MAX_VALUES:,} values; an experiment has hundreds"
            return [f"{much}. Remove aliases (*name) of aliases."]
        if isinstance(node, yaml.MappingNode):
            found += _repeated_keys(node)
            waiting += [(one, depth + 1) for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(one, depth + 1) for one in node.value]
    return sorted(found)


def _repeated_keys(mapping: yaml.MappingNode) -> list[str]:
    first_line: dict[Hashable, int] = {}
    found = []
    for key, _ in mapping.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
            continue
        if (known := first_line.get(key.value)) is not None:
            found.append(
                f"the key '{key.value}' is repeated in lines {known} and {line}; only one of the "
                f"two would count. Remove one."
            )
        first_line.setdefault(key.value, line)
    return found


def _too_deep() -> str:
    return (
        f"it is nested more than {_MAX_DEPTH} levels deep. Look for brackets or indentation that "
        f"never end."
    )
