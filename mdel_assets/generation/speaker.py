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
from mdel_assets.evaluation.ensemble import Array
from mdel_assets.generation.forward_passes import Manner
from mdel_assets.generation.networks import Networks
from mdel_assets.generation.sequences import TokenScore, TokenSequence
from mdel_assets.generation.weighing import Weighing

# What the log-probabilities of one piece of a prompt may hold, all experts' together.
_NUMBERS_PER_PIECE = 16 << 20
_TOKENS_PER_PIECE = 512

# Shapes in names: E experts, B sequences, C tokens of a piece, V vocabulary.


class Speaker:
    """One model, or an ensemble of experts, by its name.

    ``weigh`` gives the weights of a new text, told its domain or None; ``prefix`` is the token that
    opens every text, as in scoring. Not safe to use from several threads at once.
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
    ) -> None:
        self.name = name
        self.experts = tuple(experts)
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.context_length = context_length
        self.networks = networks
        self._prefix = prefix
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
            GenerationError: the prompt leaves no room in the model's context; an id that the model
                does not have; a domain that is missing.

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
            raise GenerationError(
                f"The prompt has {len(prompt)} tokens, but {self.name} reads {limit} at most, the "
                f"continuation's included. Shorten the prompt to {limit - 1} tokens or fewer."
            )
        size = self.networks.num_embedded
        if wrong := [token for token in prompt if not 0 <= token < size]:
            raise GenerationError(
                f"The prompt has the token id {wrong[0]}, but {self.name} has ids from 0 to "
                f"{size - 1}. Encode it with the model's own tokenizer."
            )

    def prefill(self, sequence: TokenSequence, num_tokens: int | None = None) -> bool:
        """Read ``num_tokens`` more of the prompt, or all of it; return whether all is read."""
        inputs = [self._prefix, *sequence.tokens]
        wanted = len(inputs) - len(sequence.held.inputs)
        left = wanted if num_tokens is None else min(wanted, num_tokens)
        with torch.inference_mode():
            while left > 0:
                done = len(sequence.held.inputs)
                count = min(left, self._piece_size(sequence))
                self._read_piece(sequence, inputs[done : done + count])
                left -= count
        return sequence.is_ready

    def _piece_size(self, sequence: TokenSequence) -> int:
        if not _is_weighed_along(sequence):
            return _TOKENS_PER_PIECE
        numbers = len(self.experts) * self.networks.num_embedded
        return min(_TOKENS_PER_PIECE, max(1, _NUMBERS_PER_PIECE // numbers))

    def _read_piece(self, sequence: TokenSequence, ids: list[int]) -> None:
        """Feed in the prompt's next ids; the first of them is the prefix token."""
        first = len(sequence.held.inputs)
        targets = sequence.tokens[first : first + len(ids)]
        if _is_weighed_along(sequence):
            log_p_ECV, log_weights_CE = self._weigh_along(sequence, ids, targets)
        else:
            if first == 0:
                sequence.weighing.read(sequence.tokens, None)
            log_weights_CE = sequence.weighing.log_weights()[None]
            log_p_ECV = self._run_one(sequence, ids, np.isfinite(log_weights_CE[0]), num_last=1)
        if sequence.prompt_scores is not None:
            count = len(targets)
            mixed_CV = _mix(log_p_ECV[:, :count], log_weights_CE[:count])
            sequence.prompt_scores += _scores(mixed_CV, targets, sequence.num_top or 0)
        if len(targets) < len(ids):
            mixed_1V = _mix(log_p_ECV[:, -1:], log_weights_CE[-1:])
            sequence.expect(mixed_1V[0], log_weights_CE[-1], log_p_ECV[:, -1])

    def _weigh_along(
        self, sequence: TokenSequence, ids: list[int], targets: list[int]
    ) -> tuple[torch.Tensor, Array]:
        """Return (E, C, V) log-probabilities after each id, and (C, E) log-weights of the token."""
        weighing = sequence.weighing
        if not weighing.needs_likelihoods:
            log_weights_CE = _weights_along(weighing, len(ids), targets, None)
            is_wanted_E = np.isfinite(log_weights_CE).any(axis=0)
            log_p_ECV = self._run_one(sequence, ids, is_wanted_E, num_last=len(ids))
            return log_p_ECV, log_weights_CE
        all_E = np.ones(len(self.experts), bool)
        log_p_ECV = self._run_one(sequence, ids, all_E, num_last=len(ids))
        chosen_C = torch.tensor(targets, dtype=torch.int64, device=log_p_ECV.device)
        places = torch.arange(len(targets), device=log_p_ECV.device)
        given_EC = log_p_ECV[:, places, chosen_C].double().cpu().numpy()
        return log_p_ECV, _weights_along(weighing, len(ids), targets, given_EC)

    def _run_one(
        self, sequence: TokenSequence, ids: list[int], is_wanted_E: Any, *, num_last: int
    ) -> torch.Tensor:
        found_EBCV = self.networks.run(
            [sequence.held], [ids], wanted_EB=is_wanted_E[:, None], num_last=num_last
        )
        return found_EBCV[:, 0]

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
        # Always in one order, so that rows stay where they are from one step to the next.
        going_on = sorted((s for s in sequences if s.has_room), key=lambda s: s.number)
        if not going_on:
            return
        log_weights_BE = np.stack([sequence.weighing.log_weights() for sequence in going_on])
        needs_B = np.array([sequence.weighing.needs_likelihoods for sequence in going_on])
        with torch.inference_mode():
            log_p_EBV = self.networks.run(
                [sequence.held for sequence in going_on],
                [[sequence.tokens[-1]] for sequence in going_on],
                wanted_EB=np.isfinite(log_weights_BE).T | needs_B,
            )[:, :, -1]
            mixed_BV = _mix(log_p_EBV, log_weights_BE)
        for b, sequence in enumerate(going_on):
            sequence.expect(mixed_BV[b], log_weights_BE[b], log_p_EBV[:, b])


def _is_weighed_along(sequence: TokenSequence) -> bool:
    """Whether every token of the prompt needs its probabilities, and not the last one alone."""
    return sequence.weighing.needs_likelihoods or sequence.prompt_scores is not None


def _weights_along(
    weighing: Weighing, num_places: int, targets: list[int], given_EC: Array | None
) -> Array:
    """Return the (C, E) log-weights before each target, and of the next token where one is left."""
    found = []
    for place, token in enumerate(targets):
        found.append(weighing.log_weights())
        weighing.read([token], None if given_EC is None else given_EC[:, place : place + 1])
    if len(found) < num_places:
        found.append(weighing.log_weights())
    return np.stack(found)


def _mix(log_p_EBV: torch.Tensor, log_weights_BE: Array) -> torch.Tensor:
    """Return the (B, V) logarithms of the weighted means of the experts' probabilities.

    Raises:
        GenerationError: they are no numbers.

    """
    mixed_BV = log_p_EBV[0] if len(log_p_EBV) == 1 else _mean(log_p_EBV, log_weights_BE)
    if bool(mixed_BV.isnan().any()):
        raise GenerationError(
            "The model gives probabilities that are not numbers: its weights are damaged or its "
            "training diverged. Train it again."
        )
    return mixed_BV


def _mean(log_p_EBV: torch.Tensor, log_weights_BE: Array) -> torch.Tensor:
    experts = np.flatnonzero(np.isfinite(log_weights_BE).any(axis=0)).tolist()
    log_weights_EB1 = torch.from_numpy(log_weights_BE.T[experts, :, None].copy()).float()
    used_EBV = log_p_EBV if len(experts) == len(log_p_EBV) else log_p_EBV[experts]
    return (used_EBV + log_weights_EB1.to(used_EBV.device)).logsumexp(dim=0)


def _scores(log_p_CV: torch.Tensor, targets: list[int], num_top: int) -> list[TokenScore]:
    if not targets:
        return []
    chosen_C1 = torch.tensor(targets, dtype=torch.int64, device=log_p_CV.device)[:, None]
    given_C = log_p_CV.gather(1, chosen_C1)[:, 0].tolist()
    highest = log_p_CV.topk(min(num_top, log_p_CV.shape[1]), dim=1)
    tops = zip(highest.indices.tolist(), highest.values.tolist(), strict=True)
    return [
        TokenScore(token, given, tuple(zip(ids, values, strict=True)))
        for token, given, (ids, values) in zip(targets, given_C, tops, strict=True)
    ]
