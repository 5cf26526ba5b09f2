"""Names on the Hub."""

import re

_LONGEST_NAME = 96


def name_problem(name: str) -> str | None:
    """Say why the Hub would refuse ``name`` as an owner's or a repository's; None if it would not.

    Source: `huggingface_hub.utils.validate_repo_id`.
    """
    is_plain = re.fullmatch(r"\w|\w[\w.-]*\w", name, re.ASCII) and len(name) <= _LONGEST_NAME
    if is_plain and "--" not in name and ".." not in name and not name.endswith(".git"):
        return None
    return (
        f"'{name}' is not allowed as a name on the Hub: expected up to {_LONGEST_NAME} letters, "
        f"digits, . _ - without . or - at either end, without '--' or '..', not ending in '.git'"
    )
