"""The sections of an experiment for its destinations: the Hub, and Weights & Biases."""

import re
from typing import ClassVar

from pydantic import ValidationInfo, field_validator

from mdel_assets.experiment.section import Section
from mdel_assets.hub.names import name_problem


class Hub(Section):
    """The destination and the names of publications.

    ``endpoint`` is the Hub's address (default: ``HF_ENDPOINT``), or ``file:FOLDER`` for a local
    folder. ``namespace`` is a user or an organisation, by default the token's user.
    ``allow_restricted`` allows publishing text that is known to be under copyright. With
    ``report``, repositories of models hold the page on the whole experiment, too.
    """

    added_later: ClassVar[frozenset[str]] = frozenset({"report"})

    namespace: str | None = None
    private: bool = True
    endpoint: str | None = None
    dataset_name: str = "{domain}"
    expert_name: str = "expert-{domain}"
    merged_name: str = "{recipe}"
    mixture_name: str = "mixture-{mixture}"
    allow_restricted: bool = False
    report: bool = False

    @field_validator("dataset_name", "expert_name", "merged_name", "mixture_name")
    @classmethod
    def _is_a_template(cls, template: str, info: ValidationInfo) -> str:
        fields = {"merged_name": "recipe", "mixture_name": "mixture"}
        field = fields.get(info.field_name or "", "domain")
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
            raise ValueError("an endpoint must begin with https://, http:// or file:")
        return endpoint


class Tracking(Section):
    """Where trainings are tracked: in a project of Weights & Biases, or nowhere.

    ``wandb_entity`` is the user or team of ``wandb_project``, by default your own.
    """

    wandb_project: str | None = None
    wandb_entity: str | None = None
