"""Prompts as token ids, and token ids as text."""

from collections.abc import Sequence
from typing import Any

from mdel_assets.serving.refusals import RefusedRequestError, wrong


def encoded(tokenizer: Any, prompt: str | Sequence[int], *, limit: int) -> tuple[int, ...]:
    """Return a prompt's token ids.

    Raises:
        RefusedRequestError: they are more than ``limit``, or not of the vocabulary.

    """
    if isinstance(prompt, str):
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    else:
        ids = prompt
        if max(ids) >= len(tokenizer):
            raise wrong(
                f"prompt: there is no token {max(ids)}, ids go up to {len(tokenizer) - 1}.",
                param="prompt",
            )
    if len(ids) > limit:
        raise wrong(
            f"prompt: it has {len(ids):,} tokens, and {limit:,} are the limit here.",
            param="prompt",
            code="prompt_too_long",
        )
    return tuple(ids)


def chat_prompt(tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:
    """Return the text that a chat is for the model, up to where the answer begins.

    Raises:
        RefusedRequestError: the tokenizer has no chat template, or its template refuses the roles.

    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise RefusedRequestError(
            "The tokenizer of this model has no chat template: it was trained on plain text, not "
            "on chats. Use /v1/completions.",
            status=400,
            code="no_chat_template",
            param="model",
        )
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        raise wrong(
            f"messages: the chat template refuses them: {error}.", param="messages"
        ) from error
    return text


def token_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of tokens; bytes that are no whole character show as U+FFFD."""
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text
