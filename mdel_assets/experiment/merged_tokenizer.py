"""The tokenizer of a merged model, and where embeddings of its tokens come from.

The schema is mergekit's.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from mdel_assets.experiment.section import PositiveInt, Section, Text
from mdel_assets.model_families.chat_templates import CHAT_TEMPLATES

BASE, UNION = "base", "union"
AUTO = "auto"
# What is shorter, or has no braces, is a misspelt name rather than a template.
_LEAST_TEMPLATE = 20


class TokenSource(Section):
    """An embedding that is made: of ``zero``, or as a ``model_token`` has it.

    A ``model_token`` is the row of ``token`` in ``model``, or its row number ``token_id``.
    """

    kind: Literal["zero", "model_token"]
    model: Text | None = None
    token: Text | None = None
    token_id: Annotated[int, Field(ge=0, le=10**9)] | None = None

    @model_validator(mode="after")
    def _names_one_token(self) -> "TokenSource":
        given = [name for name in ("model", "token", "token_id") if getattr(self, name) is not None]
        if self.kind == "zero" and given:
            raise ValueError(f"kind 'zero' takes no '{given[0]}'")
        if self.kind == "model_token" and given not in (["model", "token"], ["model", "token_id"]):
            raise ValueError(
                f"kind 'model_token' takes 'model' and one of 'token' and 'token_id', "
                f"got {', '.join(given) or 'none of them'}"
            )
        return self


def _kind_of_source(value: Any) -> str:
    if value is None:
        return "none"
    return "made" if isinstance(value, dict | TokenSource) else "named"


class TokenEmbedding(Section):
    """The embedding of one token in models that lack the token; with ``force``, in all models.

    ``source`` is a model that has the token, or what a `TokenSource` says.
    """

    source: Annotated[
        Annotated[Text, Tag("named")]
        | Annotated[TokenSource, Tag("made")]
        | Annotated[None, Tag("none")],
        Discriminator(_kind_of_source),
    ] = None
    force: bool = False

    @property
    def model(self) -> str | None:
        """The model that it is taken from."""
        return self.source.model if isinstance(self.source, TokenSource) else self.source

    def renamed(self, named: Callable[[str], str]) -> "TokenEmbedding":
        """Return it with another name of its model."""
        if self.model is None:
            return self
        new = named(self.model)
        made = isinstance(self.source, TokenSource)
        source = self.source.model_copy(update={"model": new}) if made else new  # type: ignore[union-attr]
        return self.model_copy(update={"source": source})


class MergedTokenizer(Section):
    """The merged model's tokenizer: that of the ``base``, the ``union``, or one model's.

    ``tokens`` says where embeddings of single tokens come from; a token that the tokenizer lacks is
    added. The embeddings get as many rows as the next multiple of ``pad_to_multiple_of``.
    """

    source: Text = UNION
    tokens: dict[Text, TokenEmbedding] = {}
    pad_to_multiple_of: PositiveInt | None = None

    @property
    def model(self) -> str | None:
        """The model whose tokenizer it is; None for the base's or the union."""
        return None if self.source in (BASE, UNION) else self.source

    @property
    def model_names(self) -> list[str]:
        """Every model that it names."""
        named = [self.model, *(entry.model for entry in self.tokens.values())]
        return list(dict.fromkeys(name for name in named if name))

    def renamed(self, named: Callable[[str], str]) -> "MergedTokenizer":
        """Return it with other names of models."""
        source = named(self.model) if self.model else self.source
        tokens = {token: entry.renamed(named) for token, entry in self.tokens.items()}
        return self.model_copy(update={"source": source, "tokens": tokens})

    def resolved(self) -> dict[str, Any]:
        """Return it in mergekit's schema."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        return {"source": self.source, **content}


def tokenizer_mistakes(settings: MergedTokenizer, models: Sequence[str]) -> Iterator[str]:
    """Yield why a recipe of these ``models`` cannot have this tokenizer."""
    for name in settings.model_names:
        if name.endswith(":*"):
            yield f"tokenizer: '{name}' names several models. Name one of them"
        elif name not in models and not _is_among(name, models):
            known = ", ".join(dict.fromkeys(models))
            yield (
                f"tokenizer: '{name}' is not a model of this recipe. Name one of {known}, "
                f"'{BASE}' or '{UNION}', or add '{name}' to the models, with weight 0 if it is "
                f"not to be merged"
            )


def _is_among(name: str, models: Sequence[str]) -> bool:
    return "expert:*" in models and name.startswith("expert:")


def chat_template_mistake(template: str) -> str | None:
    """Return why ``template`` is none; None if it is a name or Jinja."""
    if template == AUTO or template in CHAT_TEMPLATES:
        return None
    if "{" in template and len(template) >= _LEAST_TEMPLATE:
        return None
    names = ", ".join([AUTO, *CHAT_TEMPLATES])
    return (
        f"chat_template: '{template}' is neither a known name nor a Jinja template. Known names: "
        f"{names}"
    )
