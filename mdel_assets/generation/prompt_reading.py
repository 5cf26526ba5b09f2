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
from mdel_assets.generation.mixing import mix, mix_given
from mdel_assets.generation.networks import Networks
from mdel_assets.generation.sequences import TokenScore, TokenSequence
from mdel_assets.generation.weighing import Weighing

_TOKENS_PER_PASS = 512
# A pass of its own costs a prompt about as much as so many tokens: Pythia-160m's shape, one core.
_MAX_PADDING = 16

# Shapes in names: E experts, B sequences, C tokens of a piece, V vocabulary.


class PromptReader:
    """Reads the prompts of one speaker's sequences; ``prefix`` opens each of them.

    The log-probabilities that a pass gives are ``numbers_per_pass`` at most, those of all prompts
    together. They are one expert's, of which only what the prompts' tokens get is kept; or all
    experts', where the likeliest tokens are asked for.
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
        numbers = self._networks.num_embedded * (self._num_experts if sequence.num_top else 1)
        return min(_TOKENS_PER_PASS, max(1, self._numbers_per_pass // numbers))

    def _num_unread(self, sequence: TokenSequence) -> int:
        # The token that opens every text is read with the prompt.
        return sequence.num_prompt_tokens + 1 - len(sequence.held.inputs)

    def _read_pieces(self, group: Sequence[TokenSequence], count: int) -> None:
        pieces = [_Piece(sequence, self._prefix, count) for sequence in group]
        wanted_EB = np.stack([piece.weigh_ahead(self._num_experts) for piece in pieces], axis=1)
        held, ids = [sequence.held for sequence in group], [piece.ids for piece in pieces]
        num_last = max(piece.num_wanted for piece in pieces)
        targets_BC = torch.tensor(
            [piece.targets_before(num_last) for piece in pieces],
            dtype=torch.int64,
            device=self._networks.device,
        )
        if any(sequence.num_top for sequence in group):
            log_p_EBCV = self._networks.run(held, ids, wanted_EB=wanted_EB, num_last=num_last)
            places_EBC1 = targets_BC[None, :, :, None].expand(len(log_p_EBCV), -1, -1, -1)
            given_EBC = log_p_EBCV.gather(3, places_EBC1)[..., 0]
            for b, piece in enumerate(pieces):
                piece.take(given_EBC[:, b], log_p_EBCV[:, b, -1], log_p_EBCV[:, b])
            return
        given_EBC, last_EBV = self._networks.read(
            held, ids, wanted_EB=wanted_EB, targets_BC=targets_BC
        )
        for b, piece in enumerate(pieces):
            piece.take(given_EBC[:, b], last_EBV[:, b])


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

    def targets_before(self, num_places: int) -> list[int]:
        """Return the tokens that follow the last ids; 0 where there is no id, or no token yet."""
        followed = [*self._targets, *[0] * (len(self.ids) - len(self._targets))]
        return [*[0] * (num_places - len(followed)), *followed][-num_places:]

    def take(
        self,
        given_EC: torch.Tensor,
        last_EV: torch.Tensor,
        log_p_ECV: torch.Tensor | None = None,
    ) -> None:
        """Let the sequence have what the experts gave to the tokens after the last C ids.

        ``last_EV`` is of what follows the last id; ``log_p_ECV`` all that the experts gave.
        """
        sequence, targets = self._sequence, self._targets
        log_weights_CE, given = self._log_weights_CE, None
        if self._is_along:
            given_EC = given_EC[:, -self.num_wanted :][:, : len(targets)]
            given = given_EC.double().cpu().numpy()
        if log_weights_CE is None:
            log_weights_CE = _weights_along(sequence.weighing, len(self.ids), targets, given)
        if sequence.prompt_scores is not None:
            assert given is not None
            mixed_C = mix_given(given, log_weights_CE[: len(targets)])
            tops: list[tuple[tuple[int, float], ...]] = [()] * len(targets)
            if sequence.num_top and targets:
                assert log_p_ECV is not None
                whole_ECV = log_p_ECV[:, -self.num_wanted :][:, : len(targets)]
                mixed_CV = mix(whole_ECV, log_weights_CE[: len(targets)])
                tops = _likeliest(mixed_CV, sequence.num_top)
            sequence.prompt_scores += map(TokenScore, targets, mixed_C.tolist(), tops)
        if len(targets) < len(self.ids):
            mixed_1V = mix(last_EV[:, None], log_weights_CE[-1:])
            sequence.expect(mixed_1V[0], log_weights_CE[-1], last_EV)


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


def _likeliest(log_p_CV: torch.Tensor, count: int) -> list[tuple[tuple[int, float], ...]]:
    """Return the likeliest tokens of each place, with their log-probabilities."""
    highest = log_p_CV.topk(min(count, log_p_CV.shape[1]), dim=1)
    found = zip(highest.indices.tolist(), highest.values.tolist(), strict=True)
    return [tuple(zip(ids, values, strict=True)) for ids, values in found]
