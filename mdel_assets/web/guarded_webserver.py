"""``python -m mdel_assets.web.guarded_webserver``: dagster-webserver, with a guard in front of it.

It takes dagster-webserver's own options. ``MDEL_UI_NAMES`` holds comma-separated names under which
a proxy or another machine reaches it.
"""

import importlib
import os
from typing import Any

from mdel_assets.web.request_guard import RequestGuard, names_from

# The one place that `dagster-webserver` takes its application from.
_cli: Any = importlib.import_module("dagster_webserver.cli")
_make_app = _cli.create_app_from_workspace_process_context


def _make_guarded_app(*arguments: Any, **options: Any) -> RequestGuard:
    return RequestGuard(_make_app(*arguments, **options), names=names_from(os.environ))


def main() -> None:
    """Serve the web UI."""
    _cli.create_app_from_workspace_process_context = _make_guarded_app
    _cli.main()


if __name__ == "__main__":
    main()
