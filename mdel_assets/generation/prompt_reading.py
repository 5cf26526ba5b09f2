"""How prompts are read (prefill): short ones in one pass, long ones in pieces.

A pass reads every weight once, so a few prompts in one pass cost less than one after the other.
Prompts of different lengths are padded to the longest, and padding is computed like any token; so
only prompts of about the same length share a pass.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mdel_assets.evaluation.ensemble import Array
from mdel_assets.generation.mixing import mix
from mdel_assets.generation.networks import Networks
from mdel_assets.generation.sequences import TokenScore, TokenSequence
from mdel_assets.generation.weighing import Weighing

_TOKENS_PER_PASS = 512
# A pass of its own costs a prompt about as much as so many tokens: Pythia-160m's shape, one core.
_MAX_PADDING = 16

# Shapes in names: E experts, B sequences, C tokens of a piece, V vocabulary.


class PromptReader:
    """Reads the prompts of one speaker's sequences; ``prefix`` opens each of them.

    The log-probabilities that a pass gives are ``numbers_per_pass`` at most, all experts' and
    prompts' together.
    """

    def __init__(
        self, networks: Networks, *, prefix: int, numbers_per_pass: int = 16 << 20
    ) -> None:
        self._networks = networks
        self._num_experts = len(networks.models)
        self._prefix = prefix
        self._numbers_per_pass = numbers_per_pass

    def read(self, sequences: Sequence[TokenSequence], num_tokens: int | None) -> None:
        """Read about ``num_tokens`` more of the prompts, padding included; all, where it is None.

        In the order given, but prompts of about the same length together.
        """
        waiting = [sequence for sequence in sequences if not sequence.is_ready]
        num_left, is_first = num_tokens, True
        with torch.inference_mode():
            while waiting and num_left != 0:
                group, count = self._next_pass(waiting, num_left)
                # A prompt that would fit into one pass of the next call is not torn apart.
                if not is_first and count < min(self._num_unread(group[0]), self._limit(group[0])):
                    break
                self._read_pieces(group, count)
                if num_left is not None:
                    num_left = max(0, num_left - count * len(group))
                waiting = [sequence for sequence in waiting if not sequence.is_ready]
                is_first = False

    def _next_pass(
        self, waiting: Sequence[TokenSequence], num_left: int | None
    ) -> tuple[list[TokenSequence], int]:
        """Return the sequences of the next pass, and how many tokens it has of each at most."""
        first = waiting[0]
        room = self._limit(first) if num_left is None else min(self._limit(first), num_left)
        if not _is_new(first) or self._num_unread(first) > room:
            return [first], min(self._num_unread(first), room)
        group: list[TokenSequence] = []
        for sequence in sorted(filter(_is_new, waiting), key=self._num_unread, reverse=True):
            if group and not self._may_join(sequence, group, room):
                if first in group:
                    break
                group = []
            group.append(sequence)
        # The longest is the first now; rows are in the order in which steps have them.
        return sorted(group, key=lambda each: each.number), self._num_unread(group[0])

    def _may_join(self, sequence: TokenSequence, group: list[TokenSequence], room: int) -> bool:
        """Whether a sequence shares the pass of others, the longest of which is the first."""
        longest = self._num_unread(group[0])
        limit = min(room, *map(self._limit, [*group, sequence]))
        fits = (len(group) + 1) * longest <= limit
        return fits and longest - self._num_unread(sequence) <= _MAX_PADDING

    def _limit(self, sequence: TokenSequence) -> int:
        """Return how many tokens a pass may have with this sequence in it."""
        if not _is_weighed_along(sequence):
            return _TOKENS_PER_PASS
        numbers = self._num_experts * self._networks.num_embedded
        return min(_TOKENS_PER_PASS, max(1, self._numbers_per_pass // numbers))

    def _num_unread(self, sequence: TokenSequence) -> int:
        # The token that opens every text is read with the prompt.
        return sequence.num_prompt_tokens + 1 - len(sequence.held.inputs)

    def _read_pieces(self, group: Sequence[TokenSequence], count: int) -> None:
        pieces = [_Piece(sequence, self._prefix, count) for sequence in group]
        is_wanted_BE = [piece.weigh_ahead(self._num_experts) for piece in pieces]
        log_p_EBCV = self._networks.run(
            [sequence.held for sequence in group],
            [piece.ids for piece in pieces],
            wanted_EB=np.stack(is_wanted_BE, axis=1),
            num_last=max(piece.num_wanted for piece in pieces),
        )
        for b, piece in enumerate(pieces):
            piece.take(log_p_EBCV[:, b, -piece.num_wanted :])


class _Piece:
    """The next ids of one prompt, and the tokens that follow each of them."""

    def __init__(self, sequence: TokenSequence, prefix: int, count: int) -> None:
        first = len(sequence.held.inputs)
        inputs = itertools.chain([prefix], sequence.tokens)
        self._sequence = sequence
        self.ids = list(itertools.islice(inputs, first, first + count))
        self._targets = sequence.tokens[first : first + count]
        self._is_along = _is_weighed_along(sequence)
        self.num_wanted = len(self.ids) if self._is_along else 1
        self._log_weights_CE: Array | None = None

    def weigh_ahead(self, num_experts: int) -> NDArray[np.bool_]:
        """Return which of the experts (E,) have to run; fix the weights that depend on none."""
        sequence, weighing = self._sequence, self._sequence.weighing
        if weighing.needs_likelihoods:
            return np.ones(num_experts, bool)
        if self._is_along:
            self._log_weights_CE = _weights_along(weighing, len(self.ids), self._targets, None)
        else:
            if not sequence.held.inputs:
                weighing.read(sequence.tokens, None)
            self._log_weights_CE = weighing.log_weights()[None]
        return np.asarray(np.isfinite(self._log_weights_CE).any(axis=0))

    def take(self, log_p_ECV: torch.Tensor) -> None:
        """Let the sequence have what the experts gave after each id, or after the last alone."""
        sequence, targets = self._sequence, self._targets
        log_weights_CE = self._log_weights_CE
        if log_weights_CE is None:
            chosen_C = torch.tensor(targets, dtype=torch.int64, device=log_p_ECV.device)
            places = torch.arange(len(targets), device=log_p_ECV.device)
            given_EC = log_p_ECV[:, places, chosen_C].double().cpu().numpy()
            log_weights_CE = _weights_along(sequence.weighing, len(self.ids), targets, given_EC)
        if sequence.prompt_scores is not None:
            count = len(targets)
            mixed_CV = mix(log_p_ECV[:, :count], log_weights_CE[:count])
            sequence.prompt_scores += _scores(mixed_CV, targets, sequence.num_top or 0)
        if len(targets) < len(self.ids):
            mixed_1V = mix(log_p_ECV[:, -1:], log_weights_CE[-1:])
            sequence.expect(mixed_1V[0], log_weights_CE[-1], log_p_ECV[:, -1])


def _is_new(sequence: TokenSequence) -> bool:
    return not sequence.held.inputs


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
