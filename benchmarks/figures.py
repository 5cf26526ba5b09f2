"""One figure is one JSON line."""

import json


def show(name: str, value: float, unit: str, *, peer: str | None = None) -> None:
    """Print a figure; ``peer`` names what it is a ratio to."""
    line = {"name": name, "value": float(f"{value:.5g}"), "unit": unit, "peer": peer}
    print(json.dumps(line), flush=True)  # noqa: T201
