"""How models are judged: the section `evaluation` of the YAML."""

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mdel_assets.experiment.fields import ModelSource, SpecialTokens
from mdel_assets.experiment.section import PositiveInt, Section, Seed, Text

# Fewer documents allow no verdict (`scoring/estimates.py`), so an evaluation's budget is shared
# by at least this many. A token of the budget counts as so many bytes.
MIN_DOCUMENTS, _BYTES_PER_TOKEN = 16, 4
_ROUTER_DOCUMENTS = 6000


class Ensemble(Section):
    """How experts are weighted, token by token.

    ``prior_decay`` is the share of the prior that each validation document keeps. ``temperature``
    divides squared distances to centroids (c-BTM). A router learns from up to ``router_documents``
    of each domain; the total is limited to about six domains' worth, so that time and memory do not
    grow with the number of domains.
    """

    prior_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    temperature: Annotated[float, Field(gt=0.0)] = 0.1
    router_documents: PositiveInt = 1000

    def documents_per_domain(self, num_domains: int) -> int:
        """Return the largest number of documents per domain that a router learns from."""
        return min(self.router_documents, max(100, _ROUTER_DOCUMENTS // max(1, num_domains)))


class SampleTexts(Section):
    """What models write after the beginnings of held-out documents.

    Of each domain's held-out documents ``num_documents`` are drawn (0: no texts are written), and
    each model continues about the first ``prompt_characters`` of them by up to ``max_new_tokens``.
    ``temperature`` and ``top_p`` are as in ``mdel generate``. With ``ensemble``, all experts
    together continue them, too, which takes the memory of all of them.
    """

    num_documents: Annotated[int, Field(ge=0, le=100)] = 1
    prompt_characters: Annotated[int, Field(ge=1, le=10_000)] = 200
    max_new_tokens: Annotated[int, Field(ge=1, le=10_000)] = 64
    temperature: Annotated[float, Field(ge=0.0, le=100.0)] = 0.8
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    ensemble: bool = True


def shares_documents(split: str) -> bool:
    """Whether domains' cells of a split may hold the same documents: those of all other domains."""
    return split.endswith("_pile")


# What else than model and document a token's score depends on.
WINDOW_SETTINGS = ("max_length", "stride", "prefix_token", "dtype")


class Evaluation(Section):
    """How perplexity is measured, and for which reference models.

    ``prefix_token`` comes before each document's first window. ``stride`` is the number of new
    tokens that every later window scores; the default is ``max_length``, as in
    lm-evaluation-harness. ``special_tokens`` is as in a training. ``dtype`` is that of the matrix
    products. ``references`` are models to compare with, by name.

    Of each split ``max_documents`` are drawn; with ``max_tokens``, only as many as hold about so
    many tokens (four bytes of text count as one). A document then makes up at most a sixteenth: of
    a longer one only the beginning is scored.

    ``tasks`` are tasks, groups or tags of lm-evaluation-harness that every model is judged by, too.
    ``tasks_folder`` is a folder of your own tasks, in the harness's YAML. Of each task
    ``task_documents`` are run, its first ones; the default is all. ``num_fewshot`` is the number of
    solved examples before each question; the default is the task's own.
    """

    added_later: ClassVar[frozenset[str]] = frozenset(
        {
            *("max_tokens", "special_tokens", "sample_texts"),
            *("tasks", "tasks_folder", "task_documents", "num_fewshot"),
        }
    )

    max_length: Annotated[int, Field(ge=2, le=10**7)] = 1024
    stride: PositiveInt | None = None
    splits: Annotated[
        tuple[Literal["validation_domain", "validation_pile", "test_domain", "test_pile"], ...],
        Field(min_length=1),
    ] = ("validation_domain", "validation_pile")
    max_documents: PositiveInt = 10_000
    max_tokens: Annotated[int, Field(ge=1024)] | None = None
    prefix_token: Literal["eos", "bos"] = "eos"
    special_tokens: SpecialTokens = "tokens"
    dtype: Literal["float32", "bfloat16"] = "float32"
    num_bootstrap_samples: Annotated[int, Field(ge=1, le=10**6)] = 1000
    ensemble: Ensemble = Ensemble()
    sample_texts: SampleTexts = SampleTexts()
    references: dict[str, ModelSource] = {}
    tasks: tuple[Text, ...] = ()
    tasks_folder: Text | None = None
    task_documents: PositiveInt | None = None
    num_fewshot: Annotated[int, Field(ge=0, le=1000)] | None = None
    seed: Seed = 0

    def scoring(self, also: Collection[str] = ()) -> dict[str, Any]:
        """Return the settings that a token's score depends on, and those of ``also``."""
        return self.made_of({*WINDOW_SETTINGS, "max_tokens", "special_tokens", *also})

    @property
    def max_bytes(self) -> int | None:
        """About how many UTF-8 bytes of each split a model is scored on; None for all."""
        return None if self.max_tokens is None else _BYTES_PER_TOKEN * self.max_tokens

    @property
    def max_document_bytes(self) -> int | None:
        """The largest number of UTF-8 bytes of a document that are scored; None for all."""
        return None if self.max_bytes is None else self.max_bytes // MIN_DOCUMENTS

    @model_validator(mode="after")
    def _strides_leave_no_gap(self) -> "Evaluation":
        if self.stride and self.stride > self.max_length:
            raise ValueError(
                f"stride {self.stride} is more than max_length {self.max_length}: tokens between "
                f"two windows would not be scored"
            )
        return self
