"""A model or an ensemble that continues texts: prefill, and one step for many texts at once.

The next token's distribution is the weighted mean of the experts' probabilities; a single model is
an ensemble of one. Many sequences go through one step together, and join and leave between steps.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from mdel_assets.errors import GenerationError
from mdel_assets.generation.cached_rows import longest_beside
from mdel_assets.generation.forward_passes import Manner
from mdel_assets.generation.mixing import mix
from mdel_assets.generation.networks import Networks
from mdel_assets.generation.prompt_reading import PromptReader
from mdel_assets.generation.sequences import TokenSequence
from mdel_assets.generation.weighing import Weighing

# Shapes in names: E experts, B sequences, V vocabulary.


class PromptError(GenerationError):
    """A prompt that a speaker cannot read."""


class Speaker:
    """One model, or an ensemble of experts, by its name.

    ``weigh`` gives the weights of a new text, told its domain or None; ``prefix`` is the token that
    opens every text, as in scoring. ``fingerprint`` changes with what the speaker was made of when
    it was loaded. Not safe to use from several threads at once.
    """

    def __init__(
        self,
        name: str,
        networks: Networks,
        *,
        experts: Sequence[str],
        tokenizer: Any,
        prefix: int,
        end_ids: frozenset[int],
        context_length: int | None,
        weigh: Callable[[str | None], Weighing],
        fingerprint: str = "",
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.experts = tuple(experts)
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.context_length = context_length
        self.networks = networks
        self._reader = PromptReader(networks, prefix=prefix)
        self._weigh = weigh
        self._numbers = itertools.count()

    @property
    def decodes_together(self) -> bool:
        """Whether the sequences of one step run in one pass."""
        return self.networks.manner is Manner.TOGETHER

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes that keys, values and hidden states take for a token that all experts have read."""
        return self.networks.bytes_per_token

    def cache_bytes(self, lengths: Sequence[int]) -> int:
        """Return the bytes of memory that sequences of so many tokens take together at most.

        Room to grow, padding and copies are counted; so it is more than their tokens alone take.
        """
        return self.networks.bytes_at_most(lengths)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``, without special tokens."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        return found

    def start(
        self, prompt: Sequence[int], *, domain: str | None = None, num_top: int | None = None
    ) -> TokenSequence:
        """Return a sequence whose prompt is read: `begin` and `prefill`."""
        sequence = self.begin(prompt, domain=domain, num_top=num_top)
        self.prefill(sequence)
        return sequence

    def begin(
        self, prompt: Sequence[int], *, domain: str | None = None, num_top: int | None = None
    ) -> TokenSequence:
        """Return a sequence of which nothing is read yet.

        ``domain`` tells where the text is from, for ensembles to which that matters. ``num_top``
        asks for the prompt's scores, with so many of the likeliest tokens in each one's place.

        Raises:
            PromptError: the prompt leaves no room in the model's context; an id that the model does
                not have.
            GenerationError: a domain that is missing.

        """
        self._refuse(prompt)
        return TokenSequence(
            list(prompt),
            number=next(self._numbers),
            held=self.networks.new_sequence(),
            weighing=self._weigh(domain),
            max_tokens=self.context_length,
            num_top=num_top,
        )

    def _refuse(self, prompt: Sequence[int]) -> None:
        limit = self.context_length
        if limit is not None and len(prompt) >= limit:
            raise PromptError(
                f"The prompt has {len(prompt)} tokens, but {self.name} reads {limit} at most, the "
                f"continuation's included. Shorten the prompt to {limit - 1} tokens or fewer."
            )
        size = self.networks.num_embedded
        if wrong := [token for token in prompt if not 0 <= token < size]:
            raise PromptError(
                f"The prompt has the token id {wrong[0]}, but {self.name} has ids from 0 to "
                f"{size - 1}. Encode it with the model's own tokenizer."
            )

    def prefill(self, sequence: TokenSequence, num_tokens: int | None = None) -> bool:
        """Read ``num_tokens`` more of the prompt, or all of it; return whether all is read."""
        self.prefill_together([sequence], num_tokens)
        return sequence.is_ready

    def prefill_together(
        self, sequences: Sequence[TokenSequence], num_tokens: int | None = None
    ) -> None:
        """Read about ``num_tokens`` more of several prompts, or all of them, in few passes."""
        self._reader.read(sequences, num_tokens)

    def step(self, sequences: Sequence[TokenSequence], tokens: Sequence[int]) -> None:
        """Append a token to each sequence, and find what comes next in each.

        A sequence that has no room after its token gets nothing: it is at its end.
        """
        assert all(sequence.is_ready and sequence.has_room for sequence in sequences)
        for sequence, token in zip(sequences, tokens, strict=True):
            given_E1 = None
            if sequence.weighing.needs_likelihoods:
                assert sequence.expert_log_p_EV is not None
                given_E1 = sequence.expert_log_p_EV[:, token, None].double().cpu().numpy()
            sequence.weighing.read([token], given_E1)
            sequence.tokens.append(token)
        for group in _similar_in_length([s for s in sequences if s.has_room]):
            self._step_together(group)

    def _step_together(self, going_on: Sequence[TokenSequence]) -> None:
        log_weights_BE = np.stack([sequence.weighing.log_weights() for sequence in going_on])
        needs_B = np.array([sequence.weighing.needs_likelihoods for sequence in going_on])
        with torch.inference_mode():
            log_p_EBV = self.networks.run(
                [sequence.held for sequence in going_on],
                [[sequence.tokens[-1]] for sequence in going_on],
                wanted_EB=np.isfinite(log_weights_BE).T | needs_B,
            )[:, :, -1]
            mixed_BV = mix(log_p_EBV, log_weights_BE)
        for b, sequence in enumerate(going_on):
            sequence.expect(mixed_BV[b], log_weights_BE[b], log_p_EBV[:, b])


def _similar_in_length(sequences: Sequence[TokenSequence]) -> list[list[TokenSequence]]:
    """Return groups that may share a pass: nobody in them is padded too much.

    Sequences that grow together stay together. In a group they are always in one order, so that
    rows stay where they are from one step to the next.
    """
    groups: list[list[TokenSequence]] = []
    for sequence in sorted(sequences, key=lambda s: len(s.tokens), reverse=True):
        if not groups or len(groups[-1][0].tokens) > longest_beside(len(sequence.tokens)):
            groups.append([])
        groups[-1].append(sequence)
    return [sorted(group, key=lambda s: s.number) for group in groups]
