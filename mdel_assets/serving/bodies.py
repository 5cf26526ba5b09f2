"""What a request's body may say: OpenAI's fields, each of its type, and no other.

A field that would change the answer and is not supported is refused unless it has its default: an
answer that ignores a penalty looks like one that heeds it.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mdel_assets.errors import unknown_name_message
from mdel_assets.serving.refusals import RefusedRequestError, wrong

_NUM_SHOWN = 3
_MAX_STOPS = 4
# What stands in fields that take several types: a mistake there is told in one sentence.
_SHAPES = {
    "prompt": "text, a list of texts, a list of token ids, or a list of such lists; no list empty",
    "stop": f"a text of 1 to 200 characters, or up to {_MAX_STOPS} such texts",
}
Id = Annotated[int, Field(ge=0)]
# One mistake is enough: a long list of wrong things would be a longer list of mistakes.
Ids = Annotated[list[Id], Field(min_length=1, fail_fast=True)]
Texts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class StreamOptions(_Strict):
    """``stream_options``."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class GenerationBody(_Strict):
    """The fields that completions and chats share."""

    model: str
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=_MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Not OpenAI's: where the text is from, for ensembles that weigh their experts by that.
    domain: str | None = None
    # They tell who asks and change nothing.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    # They are not supported.
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @field_validator("frequency_penalty", "presence_penalty", "logit_bias")
    @classmethod
    def _is_default(cls, value: Any) -> Any:
        if value:
            raise ValueError("is not supported: leave it out")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts at which an answer ends."""
        if isinstance(self.stop, str):
            return (self.stop,)
        return tuple(self.stop or ())

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with how many tokens there were."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionBody(GenerationBody):
    """The body of ``/v1/completions``; ``prompt`` is text or token ids, one or several."""

    prompt: str | Ids | Texts | Annotated[list[Ids], Field(min_length=1, fail_fast=True)]
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    @model_validator(mode="after")
    def _is_supported(self) -> "CompletionBody":
        if self.suffix:
            raise ValueError("suffix is not supported: leave it out")
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of is not supported: leave it out")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, each as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """One turn of a chat."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        """What was said, as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ResponseFormat(_Strict):
    """``response_format``: plain text alone."""

    type: Literal["text"]


class ChatBody(GenerationBody):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _asks_for_alternatives_of_something(self) -> "ChatBody":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


B = TypeVar("B", bound=GenerationBody)


def read_body(content: bytes, kind: type[B]) -> B:
    """Return what a body says.

    Raises:
        RefusedRequestError: it is no JSON, a field is missing, unknown, of another type or out of
            its range.

    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise _refusal(error, kind) from error


def _refusal(error: ValidationError, kind: type[GenerationBody]) -> RefusedRequestError:
    first, *others = error.errors(include_url=False, include_context=False, include_input=False)
    if first["type"] == "json_invalid":
        return wrong(f"The body cannot be read. {first['msg']}.", param=None, code="invalid_json")
    param = _place(first["loc"])
    if param in _SHAPES and first["type"] != "missing":
        return wrong(f"{param}: has to be {_SHAPES[param]}.", param=param)
    if first["type"] == "extra_forbidden":
        message = unknown_name_message("field", param, kind.model_fields)
        return wrong(message, param=param, code="unknown_parameter")
    shown = [f"{_place(one['loc'])}: {_reason(one)}" for one in [first, *others[: _NUM_SHOWN - 1]]]
    missing = first["type"] == "missing"
    code = "missing_required_parameter" if missing else "invalid_value"
    return wrong("; ".join(shown) + ".", param=param, code=code)


def _place(place: tuple[int | str, ...]) -> str:
    """Return the field that a mistake is in, without the branches of unions."""
    if place and place[0] in _SHAPES:
        return str(place[0])
    return ".".join(str(part)[:100] for part in place[:4]) or "body"


def _reason(mistake: Any) -> str:
    text = str(mistake["msg"]).removeprefix("Value error, ")
    return text[0].lower() + text[1:]
