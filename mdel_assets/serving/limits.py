"""What a request, and all requests together, may ask of the server."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of `mdel serve`.

    ``max_running`` sequences are decoded at once and ``max_waiting`` wait; a request has as many
    sequences as prompts times ``n``, ``max_choices`` at most. ``max_memory_bytes`` holds for the
    weights of loaded models and the key-value caches of running sequences together; None is no
    limit. Log-probabilities of ``max_top_logprobs`` alternatives a token are given at most. A body
    has to arrive within ``body_seconds``, an answer ends within ``request_seconds``, and what runs
    when the server is told to end has ``grace_seconds``.
    """

    max_body_bytes: int = 2**20
    max_prompt_tokens: int = 32_768
    max_new_tokens: int = 4_096
    max_choices: int = 16
    max_running: int = 32
    max_waiting: int = 128
    max_memory_bytes: int | None = None
    max_top_logprobs: int = 20
    body_seconds: float = 30.0
    request_seconds: float = 600.0
    grace_seconds: float = 30.0


def half_of_memory() -> int:
    """Return half of the bytes of the memory that models are loaded into."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory) // 2
    return int(psutil.virtual_memory().total) // 2
