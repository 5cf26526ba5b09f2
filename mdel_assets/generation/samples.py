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

# So many texts are continued together.
_NUM_TOGETHER = 16


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
        for first in range(0, len(beginnings), _NUM_TOGETHER):
            part = beginnings[first : first + _NUM_TOGETHER]
            found += _sample_together(speaker, part, settings, seed=seed + first)
    return found


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
    for each, ids, (tokens, ended_by) in zip(beginnings, prompts, written, strict=True):
        stream = TextStream(speaker.tokenizer, prompt=ids)
        text = "".join([*map(stream.add, tokens), stream.end()])
        bits = _bits_per_byte(speaker, each)
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
    sequences = [speaker.begin(ids) for ids in prompts]
    speaker.prefill_together(sequences)
    tokens: list[list[int]] = [[] for _ in prompts]
    ended_by = [""] * len(prompts)
    while going := [number for number, reason in enumerate(ended_by) if not reason]:
        chosen: dict[int, int] = {}
        for number in going:
            token = samplers[number].choose(sequences[number].log_probabilities_V)
            if token in speaker.end_ids:
                ended_by[number] = "end of text"
                continue
            tokens[number].append(token)
            if len(tokens[number]) == max_new_tokens:
                ended_by[number] = "max_new_tokens"
            else:
                chosen[number] = token
        if chosen:
            speaker.step([sequences[number] for number in chosen], list(chosen.values()))
        for number in chosen:
            if not sequences[number].has_room:
                ended_by[number] = "context"
    return list(zip(tokens, ended_by, strict=True))


def _end_that_fits(speaker: "Speaker", prompt: list[int], num_following: int) -> list[int]:
    """Return the end of a prompt that leaves room for what follows in the model's context."""
    if speaker.context_length is None:
        return prompt
    room = speaker.context_length - num_following
    return prompt[-room:] if room > 0 else []


def _bits_per_byte(speaker: "Speaker", beginning: Beginning) -> float | None:
    """Return what the document's own text after the prompt costs, in bits per byte of UTF-8."""
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
    scores = speaker.start(prompt + following, num_top=0).prompt_scores
    assert scores is not None
    nats = -math.fsum(score.log_probability for score in scores[len(prompt) :])
    return nats / math.log(2) / len(beginning.reference.encode())
