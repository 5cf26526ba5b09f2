"""The parts of an experiment that say where its artifacts go: the Hub, and Weights & Biases."""

import re

from pydantic import ValidationInfo, field_validator

from mdel_assets.section import Section

_LONGEST_NAME = 96


class Hub(Section):
    """Where publishing puts what it publishes, and under which names.

    ``endpoint`` is the Hub's address (``HF_ENDPOINT`` where it is left out), or ``file:FOLDER``
    for a local folder. ``namespace`` is a user or an organisation, by default the token's user.
    ``allow_restricted`` lets text be published that is known to be under copyright.
    """

    namespace: str | None = None
    private: bool = True
    endpoint: str | None = None
    dataset_name: str = "{domain}"
    expert_name: str = "expert-{domain}"
    merged_name: str = "{recipe}"
    allow_restricted: bool = False

    @field_validator("dataset_name", "expert_name", "merged_name")
    @classmethod
    def _is_a_template(cls, template: str, info: ValidationInfo) -> str:
        field = "recipe" if info.field_name == "merged_name" else "domain"
        if not re.fullmatch(rf"[\w.-]*\{{{field}\}}[\w.-]*", template):
            raise ValueError(
                f"a repository's name is made of letters, digits, . _ - and {{{field}}}, as in "
                f"'mdel-{{{field}}}'"
            )
        if problem := name_problem(template.format(**{field: "x"})):
            raise ValueError(problem)
        return template

    @field_validator("namespace")
    @classmethod
    def _is_a_name(cls, namespace: str | None) -> str | None:
        if namespace is not None and (problem := name_problem(namespace)):
            raise ValueError(problem)
        return namespace

    @field_validator("endpoint")
    @classmethod
    def _is_an_address(cls, endpoint: str | None) -> str | None:
        if endpoint and not endpoint.startswith(("https://", "http://", "file:")):
            raise ValueError("an endpoint begins with https://, http:// or file:")
        return endpoint


def name_problem(name: str) -> str | None:
    """Say why the Hub would refuse ``name`` as an owner's or a repository's; None if it would not.

    Source: `huggingface_hub.utils.validate_repo_id`.
    """
    is_plain = re.fullmatch(r"\w|\w[\w.-]*\w", name, re.ASCII) and len(name) <= _LONGEST_NAME
    if is_plain and "--" not in name and ".." not in name and not name.endswith(".git"):
        return None
    return (
        f"'{name}' is no name on the Hub: expected up to {_LONGEST_NAME} letters, digits, . _ - "
        f"that begin and end with none of . -, hold neither '--' nor '..', and do not end in '.git'"
    )


class Tracking(Section):
    """Where training is tracked."""

    wandb_project: str | None = None
    wandb_entity: str | None = None
