"""The parts of an experiment: frozen, validated, each a section of the YAML.

Everything here says what is studied, and so enters fingerprints. Where and how it runs (devices,
tokens, folders) is never here.
"""

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from mdel_assets.experiment.adapters import Adapter, layers_mistake_of_adapter
from mdel_assets.experiment.section import (
    MAX_NAME_LENGTH,
    BatchSize,
    PositiveInt,
    Section,
    Seed,
    Text,
)
from mdel_assets.experiment.trained_layers import TrainedLayers

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
EVALUATION_SPLITS = ("validation_domain", "validation_pile", "test_domain", "test_pile")
SPLITS = ("train", *EVALUATION_SPLITS)
# The limit for a shard's record: far above any text, far below a machine's memory.
MAX_DOCUMENT_BYTES = 1 << 27


class Domain(Section):
    """One source of the corpus: partition ``key``, label ``name`` in shards, its ``aliases``."""

    key: str
    name: str
    aliases: tuple[str, ...] = ()

    @field_validator("key")
    @classmethod
    def _is_a_slug(cls, key: str) -> str:
        if not re.fullmatch(rf"[a-z0-9][a-z0-9_]{{0,{MAX_NAME_LENGTH - 1}}}", key):
            raise ValueError(
                f"a domain key is made of a-z, 0-9 and _, {MAX_NAME_LENGTH} characters at most, "
                f"got '{key[:MAX_NAME_LENGTH]}'"
            )
        return key


_DOMAIN_FIELDS = {"pile": "meta.pile_set_name", "dolma": "source", "folders": None}


class Source(Section):
    """Where the corpus comes from, and how its records are read.

    ``layout`` says where a record names its domain: ``pile`` and ``dolma`` in their known fields,
    ``columns`` in the ``domain_field`` that you name, ``folders`` in the name of the folder that
    contains the file (``train`` then lists folders). ``text_field`` and other fields are dotted
    paths. Without ``validation`` or ``test``, ``holdout_fraction`` of the documents of ``train`` is
    held out in its place. If ``licenses`` (patterns, any case) is given, documents with any other
    licence are left out and counted. ``other_labels`` says whether documents with a label of no
    domain are rejected, or left out and counted. A record (a line, a row's text, a text file) of
    more than ``max_document_bytes`` is rejected; more than ``max_reject_rate`` of rejected records
    refuse a shard. In layout ``folders``, files with ``text_suffixes`` are read as text in addition
    to the known suffixes; ``""`` stands for names without a suffix.
    """

    added_later: ClassVar[frozenset[str]] = frozenset({"other_labels", "max_document_bytes"})

    layout: Literal["pile", "dolma", "columns", "folders"] = "pile"
    train: Annotated[tuple[Text, ...], Field(min_length=1)]
    validation: str | None = None
    test: str | None = None
    text_field: Text = "text"
    domain_field: str | None = None
    license_field: str = "metadata.license"
    licenses: tuple[str, ...] | None = None
    other_labels: Literal["reject", "leave_out"] = "reject"
    max_reject_rate: Fraction = 1.0e-4
    max_document_bytes: PositiveInt = MAX_DOCUMENT_BYTES
    text_suffixes: tuple[Annotated[str, Field(pattern=r"^(\.[^./]+)?$")], ...] = ()
    lone_surrogates: Literal["repair", "reject"] = "repair"
    holdout_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.01
    sha256: dict[str, str] = {}

    def reading(self, *, is_labelled: bool) -> dict[str, Any]:
        """Return the settings that decide what a shard's records become."""
        fields = {"layout", "text_field", "max_reject_rate", "lone_surrogates"}
        fields.add("max_document_bytes")
        if is_labelled:
            fields |= {"domain_field", "other_labels"}
        if self.licenses is not None:
            fields |= {"licenses", "license_field"}
        if self.layout == "folders":
            fields.add("text_suffixes")
        return self.made_of(fields)

    @model_validator(mode="before")
    @classmethod
    def _fill_domain_field(cls, content: Any) -> Any:
        if not isinstance(content, dict) or content.get("domain_field"):
            return content
        return content | {"domain_field": _DOMAIN_FIELDS.get(content.get("layout", "pile"))}

    @model_validator(mode="after")
    def _folders_name_the_domain(self) -> "Source":
        if self.layout == "folders" and self.domain_field:
            raise ValueError(
                f"layout 'folders' takes the domain from the folder's name; remove domain_field "
                f"'{self.domain_field}', or use layout 'columns'"
            )
        return self


class Mixture(Section):
    """The general half of a dataset: ``general_ratio`` times the domain half.

    ``match`` says what is counted: documents, or UTF-8 bytes. ``compatible_with_mdel`` instead
    takes the shards' first documents of any domain and keeps duplicates, as the original MDEL did;
    it is for comparison only.
    """

    general_ratio: Annotated[float, Field(ge=0.0)] = 1.0
    match: Literal["documents", "bytes"] = "documents"
    compatible_with_mdel: bool = False
    seed: Seed = 0


# Settings for logging and checkpoints, which do not affect the result of a training.
WATCHING_FIELDS = frozenset({"logging_steps", "eval_steps", "save_steps", "save_total_limit"})


# How to read the literal text of a special token, such as <|endoftext|> in source code.
SpecialTokens = Literal["tokens", "text"]


class Optimization(Section):
    """The settings of a training run, for the seed and the experts alike.

    One of three settings gives its length: ``num_tokens``, ``max_steps`` (optimizer steps), or
    ``num_epochs`` (of the dataset's blocks). With ``cache_prefix``, blocks that are read more than
    once go through the layers below the first trained one only once; this takes ``4 *
    hidden_size`` bytes of disk per token. ``eval_steps`` measures the validation losses every so
    many steps, in addition to before and after. ``save_steps`` is the number of steps between
    checkpoints; by default they are some minutes apart. ``special_tokens`` says how to read a
    special token's literal text in a document.
    """

    added_later: ClassVar[frozenset[str]] = frozenset({"special_tokens"})

    learning_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0e-4
    warmup_ratio: Fraction = 0.03
    lr_schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    adam_beta1: Fraction = 0.9
    adam_beta2: Fraction = 0.95
    adam_epsilon: Annotated[float, Field(gt=0.0)] = 1.0e-8
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    block_size: Annotated[int, Field(ge=2, le=10**6)] = 512
    num_tokens: PositiveInt = 4_096_000
    max_steps: PositiveInt | None = None
    num_epochs: Annotated[float, Field(gt=0.0, le=10.0**6)] | None = None
    max_train_documents: PositiveInt | None = None
    batch_size: BatchSize = 8
    micro_batch_size: BatchSize | None = None
    gradient_checkpointing: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    num_validation_blocks: PositiveInt = 32
    special_tokens: SpecialTokens = "tokens"
    cache_prefix: bool = True
    logging_steps: PositiveInt | None = None
    eval_steps: PositiveInt | None = None
    save_steps: PositiveInt | None = None
    save_total_limit: PositiveInt = 1
    seed: Seed = 0

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run, at least one; with ``num_epochs``, ask `of_length` first."""
        assert self.num_epochs is None
        return self.max_steps or max(1, self.num_tokens // (self.batch_size * self.block_size))

    @property
    def num_tokens_read(self) -> int:
        """The number of tokens that a run actually reads: whole steps."""
        return self.num_steps * self.batch_size * self.block_size

    def of_length(self, num_blocks: int) -> Self:
        """Return the settings with their length in steps, for epochs of ``num_blocks`` blocks."""
        if self.num_epochs is None:
            return self
        steps = max(1, round(self.num_epochs * num_blocks / self.batch_size))
        return self.model_copy(update={"max_steps": steps, "num_epochs": None})

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        lengths = ("num_tokens", "max_steps", "num_epochs")
        chosen = self.model_fields_set
        given = [n for n in lengths if n in chosen and getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(given)}: each says how long a training is")
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size "
                f"{self.micro_batch_size}"
            )
        return self


class ExpertTraining(Optimization):
    """How an expert is trained: the trained layers, and the settings.

    ``store`` is the form of its folder: ``full`` copies the frozen tensors, too; ``delta`` stores
    the changed tensors and a link to the seed's own file. With ``adapter``, low-rank adapters are
    trained in these layers, and their weights stay as they are until the adapters are merged.
    """

    added_later: ClassVar[frozenset[str]] = Optimization.added_later | {"adapter"}

    trained_layers: TrainedLayers
    adapter: Adapter | None = None
    store: Literal["full", "delta"] = "full"

    @model_validator(mode="after")
    def _adapter_has_linear_layers(self) -> Self:
        if self.adapter and (mistake := layers_mistake_of_adapter(self.trained_layers)):
            raise ValueError(mistake)
        return self


class Variant(Section):
    """An expert of ``domain`` with other settings, for a sweep.

    ``training`` replaces some of the experiment's settings; ``text: domain`` reads only the
    domain's own documents, without the general half of its dataset.
    """

    domain: str
    training: dict[str, Any] = {}
    text: Literal["mixture", "domain"] = "mixture"


class Baselines(Section):
    """The models to compare the experts with, trained in the same way on all datasets.

    ``dense`` reads as many tokens as all experts together, ``dense_one`` as many as one expert;
    ``random_split`` trains as many further experts, on randomly dealt documents.
    """

    dense: bool = True
    dense_one: bool = True
    random_split: bool = False


class Pretraining(Optimization):
    """A seed model trained from scratch on the domains' own training text.

    ``model`` is a transformers configuration: ``model_type`` and its settings.
    """

    model: dict[str, Any]
    vocab_size: Annotated[int, Field(ge=300, le=10**7)]

    @field_validator("model")
    @classmethod
    def _names_its_type(cls, model: dict[str, Any]) -> dict[str, Any]:
        if "model_type" not in model:
            raise ValueError("'model' needs a 'model_type', such as gpt_neox or llama")
        return model


class ModelSource(Section):
    """An existing model: a Hub id with its revision, or a folder.

    ``sample://smollm2-135m`` is a model inside a package.
    """

    path: Text
    revision: Text = "main"


class SeedModel(Section):
    """The model every expert branches from.

    ``path`` is a folder or a Hub id, at ``revision``. ``pretrain`` instead trains a model from
    scratch.
    """

    path: Text | None = None
    revision: Text = "main"
    pretrain: Pretraining | None = None

    @model_validator(mode="after")
    def _is_one_of_two(self) -> "SeedModel":
        if (self.path is None) == (self.pretrain is None):
            raise ValueError("give exactly one of 'path' (a Hub id or a folder) and 'pretrain'")
        return self
