"""The Hub's token and address, from the environment. Neither is ever written anywhere."""

import logging
import os
from collections.abc import Mapping

from mdel_assets.errors import MissingTokenError

_log = logging.getLogger(__name__)
TOKEN_VARIABLE = "HF_TOKEN"
DEPRECATED_VARIABLES = ("HUGGING_FACE_HUB_TOKEN", "HF_ACCESS_TOKEN")


def find_token(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the token of the environment or of ``hf auth login``; else None."""
    if token := environment.get(TOKEN_VARIABLE, "").strip():
        return token
    for variable in DEPRECATED_VARIABLES:
        if token := environment.get(variable, "").strip():
            _log.warning("%s is deprecated: use %s for the token", variable, TOKEN_VARIABLE)
            return token
    from huggingface_hub import get_token

    return get_token()


def require_token(environment: Mapping[str, str] = os.environ) -> str:
    """Return the token.

    Raises:
        MissingTokenError: there is none.

    """
    token = find_token(environment)
    if token is None:
        raise MissingTokenError(
            f"There is no token for publishing. Create one with write access on the Hub (Settings, "
            f"Access Tokens) and set {TOKEN_VARIABLE} to it, or log in with 'hf auth login'. Or "
            f"publish to a folder: 'hub: {{endpoint: file:FOLDER}}' in the experiment."
        )
    return token
