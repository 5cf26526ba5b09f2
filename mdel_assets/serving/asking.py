"""What a body asks for: sequences to decode, and the form of the answer."""

import dataclasses
import secrets
import time
from collections.abc import Sequence
from typing import Any

from mdel_assets.serving.answers import ChatForm, CompletionForm, Form
from mdel_assets.serving.bodies import ChatBody, CompletionBody, GenerationBody
from mdel_assets.serving.limits import Limits
from mdel_assets.serving.orders import Order
from mdel_assets.serving.prompts import chat_prompt, encoded, token_text
from mdel_assets.serving.refusals import wrong

# OpenAI's own defaults.
_COMPLETION_TOKENS = 16
_TEMPERATURE = 1.0


@dataclasses.dataclass(frozen=True)
class Asked:
    """The orders of one request, one for each choice, and how they are answered."""

    orders: tuple[Order, ...]
    form: Form
    num_prompt_tokens: int

    def written_by(self, fingerprint: str) -> "Asked":
        """Return the same, answered in the name of the model that writes."""
        return dataclasses.replace(
            self, form=dataclasses.replace(self.form, fingerprint=fingerprint)
        )


def completion_asked(body: CompletionBody, tokenizer: Any, *, limits: Limits) -> Asked:
    """Return what the body of ``/v1/completions`` asks for.

    Raises:
        RefusedRequestError: it is more than the limits allow.

    """
    _refuse_too_many(body, len(body.prompts), limits)
    _refuse_alternatives(body.logprobs, limits, param="logprobs")
    max_new_tokens = _COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    prompts = [encoded(tokenizer, p, limit=limits.max_prompt_tokens) for p in body.prompts]
    orders = _orders(
        body,
        prompts,
        max_new_tokens=max_new_tokens,
        num_top=body.logprobs,
        tells_prompt=bool(body.echo) and body.logprobs is not None,
    )
    echoes = [token_text(tokenizer, p) if body.echo else "" for p in prompts]
    form = CompletionForm(
        id=f"cmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=body.model,
        token_text=lambda id_: token_text(tokenizer, [id_]),
        echoes=tuple(echo for echo in echoes for _ in range(body.n or 1)),
        tells_log_p=body.logprobs is not None,
    )
    return Asked(orders, form, sum(map(len, prompts)))


def chat_asked(body: ChatBody, tokenizer: Any, *, limits: Limits) -> Asked:
    """Return what the body of ``/v1/chat/completions`` asks for.

    Raises:
        RefusedRequestError: the model knows no chats, or it is more than the limits allow.

    """
    _refuse_too_many(body, 1, limits)
    _refuse_alternatives(body.top_logprobs, limits, param="top_logprobs")
    max_new_tokens = body.max_completion_tokens
    messages = [{"role": turn.role, "content": turn.text} for turn in body.messages]
    text = chat_prompt(tokenizer, messages)
    prompt = encoded(tokenizer, text, limit=limits.max_prompt_tokens)
    orders = _orders(
        body,
        [prompt],
        max_new_tokens=body.max_tokens if max_new_tokens is None else max_new_tokens,
        num_top=(body.top_logprobs or 0) if body.logprobs else None,
        tells_prompt=False,
    )
    form = ChatForm(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=body.model,
        token_text=lambda id_: token_text(tokenizer, [id_]),
        tells_log_p=bool(body.logprobs),
    )
    return Asked(orders, form, len(prompt))


def _refuse_too_long(body: GenerationBody, limits: Limits) -> None:
    for param in ("max_tokens", "max_completion_tokens"):
        wanted = getattr(body, param, None)
        if wanted is not None and wanted > limits.max_new_tokens:
            raise wrong(
                f"{param}: {wanted:,} tokens are wanted, {limits.max_new_tokens:,} are given at "
                f"most.",
                param=param,
            )


def _orders(
    body: GenerationBody,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int | None,
    num_top: int | None,
    tells_prompt: bool,
) -> tuple[Order, ...]:
    """Return ``n`` orders for each prompt, each with a seed of its own."""
    seed = secrets.randbits(62) if body.seed is None else body.seed
    return tuple(
        Order(
            model=body.model,
            prompt_ids=prompt,
            max_new_tokens=max_new_tokens,
            temperature=_TEMPERATURE if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=seed + number,
            stops=body.stops,
            num_top=num_top,
            tells_prompt=tells_prompt,
            domain=body.domain,
        )
        for prompt in prompts
        for number in range(body.n or 1)
    )


def _refuse_too_many(body: GenerationBody, num_prompts: int, limits: Limits) -> None:
    _refuse_too_long(body, limits)
    num_choices = num_prompts * (body.n or 1)
    if num_choices > limits.max_choices:
        raise wrong(
            f"n: {num_choices:,} texts are wanted (n times the prompts), {limits.max_choices} are "
            f"written for one request at most.",
            param="n",
        )


def _refuse_alternatives(wanted: int | None, limits: Limits, *, param: str) -> None:
    if wanted is not None and wanted > limits.max_top_logprobs:
        raise wrong(
            f"{param}: {wanted:,} alternatives are wanted, {limits.max_top_logprobs} are told at "
            f"most.",
            param=param,
        )
