"""Processes of their own that load from a test server, as a stranger would."""

import os
import re

from mdel_assets_tests import warm_python


def client_environment(server, home, *, token=None, offline=False):
    """Return the environment of a client of ``server`` whose cache is under ``home``."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGG"))}
    environment = kept | {
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "OMP_NUM_THREADS": "1",
    }
    return environment | ({"HF_TOKEN": token} if token else {})


def run_python(code, environment, *, cwd=None):
    """Run ``code`` in a new process and return what it printed."""
    return warm_python.run(
        ["-c", code], env=environment, cwd=cwd, check=True, with_hub=False
    ).stdout


def snippet_of(card):
    """Return the code that a card shows."""
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code
