"""What a speaker writes after beginnings of documents, and how well it predicts their true text."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdel_assets.experiment.evaluation import SampleTexts
from mdel_assets.generation.beginnings import Beginning
from mdel_assets.generation.sampling import Sampler
from mdel_assets.generation.text_stream import TextStream
from mdel_assets.machine.shared_cores import sharing_cores

if TYPE_CHECKING:
    from mdel_assets.generation.speaker import Speaker

# So many texts are continued together at most, and so many that their keys and values take this.
_MAX_TOGETHER, _CACHE_BYTES = 32, 512 << 20


@dataclasses.dataclass(frozen=True)
class Sample:
    """A beginning, its continuation, and the bits per byte of the document's own text there.

    ``ended_by`` is ``end of text``, ``max_new_tokens`` or ``context``. Of a prompt that leaves no
    room in the model's context, only the end is read. ``bits_per_byte`` is None where the document
    has no text after the prompt, or where that text alone does not fit.
    """

    domain: str
    document_id: str
    prompt: str
    reference: str
    continuation: str
    ended_by: str
    num_tokens: int
    bits_per_byte: float | None


def sample_texts(
    speaker: "Speaker", beginnings: Sequence[Beginning], *, settings: SampleTexts, seed: int
) -> list[Sample]:
    """Let a speaker continue ``beginnings``; the same seed gives the same texts."""
    found: list[Sample] = []
    with sharing_cores():
        count = _num_together(speaker, beginnings, settings.max_new_tokens)
        for first in range(0, len(beginnings), count):
            part = beginnings[first : first + count]
            found += _sample_together(speaker, part, settings, seed=seed + first)
    return found


def _num_together(speaker: "Speaker", beginnings: Sequence[Beginning], max_new_tokens: int) -> int:
    """Return how many texts are in memory together: every step reads all weights once for them."""
    prompts = [len(speaker.encode(each.prompt)) for each in beginnings]
    num_tokens = max(prompts, default=0) + max_new_tokens
    of_a_text = max(1, num_tokens * speaker.cache_bytes_per_token)
    return max(1, min(_MAX_TOGETHER, _CACHE_BYTES // of_a_text))


def _sample_together(
    speaker: "Speaker", beginnings: Sequence[Beginning], settings: SampleTexts, *, seed: int
) -> list[Sample]:
    prompts = [
        _end_that_fits(speaker, speaker.encode(each.prompt), settings.max_new_tokens)
        for each in beginnings
    ]
    samplers = [
        Sampler(temperature=settings.temperature, top_p=settings.top_p, seed=seed + number)
        for number in range(len(prompts))
    ]
    written = _continue_together(speaker, prompts, samplers, settings.max_new_tokens)
    found = []
    costs = _bits_per_byte(speaker, beginnings)
    for each, ids, (tokens, ended_by), bits in zip(
        beginnings, prompts, written, costs, strict=True
    ):
        stream = TextStream(speaker.tokenizer, prompt=ids)
        text = "".join([*map(stream.add, tokens), stream.end()])
        about = (each.domain, each.document_id, each.prompt, each.reference)
        found.append(Sample(*about, text, ended_by, len(tokens), bits))
    return found


def _continue_together(
    speaker: "Speaker",
    prompts: Sequence[Sequence[int]],
    samplers: Sequence[Sampler],
    max_new_tokens: int,
) -> list[tuple[list[int], str]]:
    """Return the tokens that continue each prompt, and what ended them."""
    going = {number: speaker.begin(ids) for number, ids in enumerate(prompts)}
    speaker.prefill_together(list(going.values()))
    tokens: list[list[int]] = [[] for _ in prompts]
    ended_by = [""] * len(prompts)
    while going:
        chosen: dict[int, int] = {}
        for number, sequence in going.items():
            token = samplers[number].choose(sequence.log_probabilities_V)
            if token in speaker.end_ids:
                ended_by[number] = "end of text"
                continue
            tokens[number].append(token)
            if len(tokens[number]) == max_new_tokens:
                ended_by[number] = "max_new_tokens"
            else:
                chosen[number] = token
        # What has ended is forgotten, so that its memory is free.
        going = {number: going[number] for number in chosen}
        speaker.step(list(going.values()), list(chosen.values()))
        for number in chosen:
            if not going[number].has_room:
                ended_by[number] = "context"
                del going[number]
    return list(zip(tokens, ended_by, strict=True))


def _end_that_fits(speaker: "Speaker", prompt: list[int], num_following: int) -> list[int]:
    """Return the end of a prompt that leaves room for what follows in the model's context."""
    if speaker.context_length is None:
        return prompt
    room = speaker.context_length - num_following
    return prompt[-room:] if room > 0 else []


def _bits_per_byte(speaker: "Speaker", beginnings: Sequence[Beginning]) -> list[float | None]:
    """Return what each document's own text after the prompt costs, in bits per byte of UTF-8."""
    found: list[float | None] = []
    read = {}
    for number, each in enumerate(beginnings):
        if tokens := _true_tokens(speaker, each):
            prompt, following = tokens
            read[number] = len(prompt), speaker.begin(prompt + following, num_top=0)
    speaker.prefill_together([sequence for _, sequence in read.values()])
    for number, each in enumerate(beginnings):
        if number not in read:
            found.append(None)
            continue
        size, sequence = read[number]
        scores = sequence.prompt_scores
        assert scores is not None
        nats = -math.fsum(score.log_probability for score in scores[size:])
        found.append(nats / math.log(2) / len(each.reference.encode()))
    return found


def _true_tokens(speaker: "Speaker", beginning: Beginning) -> tuple[list[int], list[int]] | None:
    """Return the tokens of the prompt and of what follows; None where that does not fit."""
    prompt = speaker.encode(beginning.prompt)
    ids = speaker.encode(beginning.prompt + beginning.reference)
    following = ids[len(prompt) :]
    if ids[: len(prompt)] != prompt:
        # A token lies across the cut: then what follows is read as a text of its own.
        following = speaker.encode(beginning.reference)
    prompt = _end_that_fits(speaker, prompt, len(following) + 1)
    num_tokens, limit = len(prompt) + len(following), speaker.context_length
    if not following or (limit is not None and num_tokens >= limit):
        return None
    return prompt, following
