"""Models with a common trunk, token by token: what they share runs once, the rest where wanted.

A sequence has a row of keys and values under the trunk and one under every model. A model that is
not wanted does not run; once it is wanted again, it first reads what it has missed, from the
trunk's hidden states, which are kept. So experts without weight cost nothing.
"""

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mdel_assets.generation.cached_rows import Row, columns_at_most
from mdel_assets.generation.forward_passes import DecodingTrunk, ForwardPass, Manner, NewIds
from mdel_assets.generation.shared_head import SharedHead

_log = logging.getLogger(__name__)
_TOKENS_CAUGHT_UP = 512
_PROBES = (tuple(range(3, 12)), tuple(range(15, 1, -1)))

# Shapes in names: E models, B sequences, T tokens fed in, C last positions, V vocabulary, D width.


class HeldSequence:
    """What the networks keep of one sequence: the ids fed in, and rows of keys and values."""

    def __init__(self, num_models: int) -> None:
        self.inputs: list[int] = []
        self.trunk = Row()
        self.models = [Row() for _ in range(num_models)]
        self._states: list[torch.Tensor] = []

    def add_states(self, states_TD: torch.Tensor) -> None:
        """Keep the trunk's hidden states of the newest tokens, of this sequence alone."""
        self._states.append(states_TD.clone())

    @property
    def num_bytes(self) -> int:
        """Bytes of all that is kept, room that is not yet used left out."""
        return sum(self._bytes_by_part())

    @property
    def peak_bytes(self) -> int:
        """Bytes at most while it is copied: a layer at a time, or the hidden states."""
        return self.num_bytes + max(self._bytes_by_part())

    def _bytes_by_part(self) -> list[int]:
        states = sum(states_TD.nbytes for states_TD in self._states)
        rows = (self.trunk, *self.models)
        return [states, *itertools.chain.from_iterable(row.bytes_by_layer() for row in rows)]

    def states(self, first: int, last: int) -> torch.Tensor:
        """Return the trunk's (T, D) hidden states of some tokens."""
        self._states = [torch.cat(self._states)]
        return self._states[0][first:last]


class Networks:
    """Models of one family, ready to continue sequences; ``manner`` says how.

    Whether keys and values of sequences of several lengths can be used together, and whether the
    first layers can be run apart, differs by family: it is tried on two short texts. ``tolerance``
    is how far log-probabilities may then be off, as a share of their range.
    """

    def __init__(self, models: Sequence[Any], *, tolerance: float) -> None:
        self.models = models
        self.device = next(models[0].parameters()).device
        with torch.inference_mode():
            expected = [_by_whole_texts(model) for model in models]
            for manner in Manner:
                self._unshared(manner)
                if self._agrees(expected, tolerance=tolerance, num_models=1):
                    break
            if self.manner is not Manner.TOGETHER:
                name = type(models[0]).__name__
                _log.warning("%s: texts are continued %s", name, self.manner.value)
            self._share(expected, tolerance)
            self._measure()

    def _unshared(self, manner: Manner) -> None:
        self.manner = manner
        self._trunk: DecodingTrunk | None = None
        self._head: SharedHead | None = None
        self._passes = [ForwardPass.of_model(model, manner) for model in self.models]

    def _share(self, expected: list[torch.Tensor], tolerance: float) -> None:
        """Run the first layers that all models have in common once, where that can be done."""
        if self.manner is Manner.ANEW or len(self.models) == 1:
            return
        # While the models are whole: a forward pass of a wired one means nothing by itself.
        head = SharedHead.of(self.models, torch.tensor(_PROBES[:1], device=self.device))
        if head:
            self._head = head
            if not self._agrees(expected, tolerance=tolerance, num_models=len(self.models)):
                head.put_back()
                self._head = None
        self._share_layers(expected, tolerance)

    def _share_layers(self, expected: list[torch.Tensor], tolerance: float) -> None:
        trunk = DecodingTrunk(self.models)
        if not trunk.num_layers:
            return
        self._trunk = trunk
        self._trunk_pass = ForwardPass.of_trunk(trunk, self.manner)
        if not self._agrees(expected, tolerance=tolerance, num_models=len(self.models)):
            _log.warning("the models' common layers cannot be run apart; each model runs alone")
            trunk.unwire()
            self._trunk = None

    @property
    def num_shared_layers(self) -> int:
        """How many first layers run once for all models."""
        return self._trunk.num_layers if self._trunk else 0

    @property
    def num_embedded(self) -> int:
        """How many token ids the models know."""
        return int(self.models[0].get_input_embeddings().weight.shape[0])

    def _measure(self) -> None:
        """Note what a sequence takes that all models have read, by the token and besides."""
        sequence, peaks = self.new_sequence(), []
        for _ in range(2):
            self.run([sequence], [[0]], wanted_EB=np.ones((len(self.models), 1), bool))
            peaks.append(sequence.peak_bytes)
        self.bytes_per_token = sequence.num_bytes // 2
        self._peak_bytes_per_token = peaks[1] - peaks[0]
        self._fixed_bytes = peaks[0] - self._peak_bytes_per_token

    def bytes_at_most(self, lengths: Sequence[int]) -> int:
        """Return what sequences take together at most until they are as long as ``lengths``.

        That is, where those of one pass are as close in length as `longest_beside` wants it.
        """
        is_padded = self.manner is Manner.TOGETHER
        num_tokens = columns_at_most(lengths) if is_padded else sum(lengths)
        return num_tokens * self._peak_bytes_per_token + len(lengths) * self._fixed_bytes

    def new_sequence(self) -> HeldSequence:
        """Return a sequence of which nothing has been fed in."""
        return HeldSequence(len(self.models))

    def run(
        self,
        sequences: Sequence[HeldSequence],
        ids: Sequence[Sequence[int]],
        *,
        wanted_EB: NDArray[np.bool_],
        num_last: int = 1,
    ) -> torch.Tensor:
        """Feed more ids to each sequence; return (E, B, C, V) log-probabilities, fp32.

        Those of the last ``num_last`` positions, in natural logarithms; zeros where a model is not
        wanted. Either all sequences get as many ids, or none has any yet: the shorter ones are then
        padded before their first, and what is given for padding means nothing.
        """
        return self._run(sequences, ids, wanted_EB, num_last, None)

    def read(
        self,
        sequences: Sequence[HeldSequence],
        ids: Sequence[Sequence[int]],
        *,
        wanted_EB: NDArray[np.bool_],
        targets_BC: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Feed ids as `run` does, and keep of each position only what its next token needs.

        Return the (E, B, C) log-probabilities of ``targets_BC`` after the last C positions, and the
        (E, B, V) of what follows the last one.
        """
        num_last = targets_BC.shape[1]
        found = self._run(sequences, ids, wanted_EB, num_last, targets_BC)
        return found[..., :num_last], found[..., num_last:]

    def _run(
        self,
        sequences: Sequence[HeldSequence],
        ids: Sequence[Sequence[int]],
        wanted_EB: NDArray[np.bool_],
        num_last: int,
        targets_BC: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return (E, B, C, V), or with targets (E, B, C + V): the targets', then the last ones."""
        if self.manner is not Manner.TOGETHER and len(sequences) > 1:
            return self._run_one_by_one(sequences, ids, wanted_EB, num_last, targets_BC)
        assert len(set(map(len, ids))) == 1 or not any(sequence.inputs for sequence in sequences)
        for sequence, added in zip(sequences, ids, strict=True):
            sequence.inputs += added
        new = NewIds.padded(ids, device=self.device)
        states_BTD = self._run_trunk(sequences, new)
        found: list[torch.Tensor | None] = []

        def keep(model: int, logits_BTV: torch.Tensor) -> torch.Tensor:
            log_p_BCV = _log_probabilities(logits_BTV, num_last)
            if targets_BC is None:
                return log_p_BCV
            return _of_targets(log_p_BCV, targets_BC[torch.from_numpy(wanted_EB[model])])

        for model, wanted_B in enumerate(wanted_EB):
            members = [b for b, is_wanted in enumerate(wanted_B) if is_wanted]
            for b, sequence in enumerate(sequences):
                if not wanted_B[b]:
                    sequence.models[model].part()
            for b in members:
                self._catch_up(model, sequences[b], new.lengths_B[b])
            own = slice(None) if len(members) == len(sequences) else members
            states = None if states_BTD is None else states_BTD[own]
            chosen = [sequences[b] for b in members]
            part = None
            if members:
                part = self._run_model(model, chosen, new.of(members), states, num_last)
                # Logits are large, and are not kept until all models have run.
                part = part[:, -num_last:] if self._head else keep(model, part)
            found.append(part)
        if self._head:
            found = self._head.run(found, keep)
        return _filled(found, wanted_EB)

    def _run_one_by_one(
        self,
        sequences: Sequence[HeldSequence],
        ids: Sequence[Sequence[int]],
        wanted_EB: NDArray[np.bool_],
        num_last: int,
        targets_BC: torch.Tensor | None,
    ) -> torch.Tensor:
        parts = []
        for b, (one, added) in enumerate(zip(sequences, ids, strict=True)):
            last = min(num_last, len(added))
            targets = None if targets_BC is None else targets_BC[b : b + 1, -last:]
            part = self._run([one], [added], wanted_EB[:, b : b + 1], last, targets)
            missing = (num_last - last, 0)
            pad = (0, 0, *missing) if targets is None else missing
            parts.append(torch.nn.functional.pad(part, pad))
        return torch.cat(parts, dim=1)

    def _run_trunk(self, sequences: Sequence[HeldSequence], new: NewIds) -> torch.Tensor | None:
        if self._trunk is None:
            return None
        rows = [sequence.trunk for sequence in sequences]
        states_BTD = self._trunk_pass.run(rows, new)
        for sequence, states_TD, length in zip(sequences, states_BTD, new.lengths_B, strict=True):
            sequence.add_states(states_TD[-length:])
        return states_BTD

    def _catch_up(self, model: int, sequence: HeldSequence, num_new: int) -> None:
        """Let a model read what it has not read of a sequence, up to the newest ``num_new`` ids."""
        end = len(sequence.inputs) - num_new
        while (first := sequence.models[model].length) < end and self.manner is not Manner.ANEW:
            last = min(first + _TOKENS_CAUGHT_UP, end)
            ids = NewIds.padded([sequence.inputs[first:last]], device=self.device)
            states = sequence.states(first, last)[None] if self._trunk else None
            self._run_model(model, [sequence], ids, states, 1)

    def _run_model(
        self,
        model: int,
        sequences: Sequence[HeldSequence],
        new: NewIds,
        states_BTD: torch.Tensor | None,
        num_last: int,
    ) -> torch.Tensor:
        """Return the logits of the last positions at least; hidden states, with a shared head."""
        if self.manner is Manner.ANEW:
            whole_BT = torch.tensor([sequences[0].inputs], device=self.device)
            found: torch.Tensor = self.models[model](input_ids=whole_BT, use_cache=False).logits
            return found
        if self._trunk is not None:
            self._trunk.recall(states_BTD)
        rows = [sequence.models[model] for sequence in sequences]
        return self._passes[model].run(rows, new, num_last)

    def _agrees(
        self, expected: Sequence[torch.Tensor], *, tolerance: float, num_models: int
    ) -> bool:
        """Whether the first models say of texts in pieces what they say of whole texts."""
        wanted_EB = np.zeros((len(self.models), 2), bool)
        wanted_EB[:num_models] = True
        sequences = [self.new_sequence() for _ in _PROBES]
        try:
            self.run(sequences, [probe[:-5] for probe in _PROBES], wanted_EB=wanted_EB)
            for b, probe in enumerate(_PROBES):
                self.run([sequences[b]], [probe[-5:-2]], wanted_EB=wanted_EB[:, :1])
            for place in (-2, -1):
                step = [[probe[place]] for probe in _PROBES]
                found_EBV = self.run(sequences, step, wanted_EB=wanted_EB)[:, :, -1]
        except Exception as error:  # noqa: BLE001  (a family's code fails in any way)
            _log.debug("%s: %s", self.manner, error)
            return False
        return all(
            bool(((found - right).abs().max() <= tolerance * (right.max() - right.min())).item())
            for found, right in zip(found_EBV[:num_models], expected, strict=False)
        )


def _by_whole_texts(model: Any) -> torch.Tensor:
    """Return the (B, V) log-probabilities after each probe, read in one piece."""
    device = next(model.parameters()).device
    found = []
    for probe in _PROBES:
        ids = torch.tensor([probe], device=device)
        found.append(_log_probabilities(model(input_ids=ids, use_cache=False).logits, 1)[:, 0])
    return torch.cat(found)


def _log_probabilities(logits_BTV: torch.Tensor, num_last: int) -> torch.Tensor:
    return logits_BTV[:, -num_last:].float().log_softmax(dim=-1)


def _of_targets(log_p_BCV: torch.Tensor, targets_BC: torch.Tensor) -> torch.Tensor:
    """Return (B, C + V): each position's target, then all of the last position."""
    given_BC = log_p_BCV.gather(2, targets_BC[:, :, None])[:, :, 0]
    return torch.cat([given_BC, log_p_BCV[:, -1]], dim=1)


def _filled(found: Sequence[torch.Tensor | None], wanted_EB: NDArray[np.bool_]) -> torch.Tensor:
    """Return what models gave for the sequences that wanted them, in (E, B, C, V)."""
    if wanted_EB.all():
        return torch.stack([part for part in found if part is not None])
    like = next(part for part in found if part is not None)
    filled = torch.zeros((*wanted_EB.shape, *like.shape[1:]), device=like.device)
    for model, part in enumerate(found):
        if part is not None:
            filled[model, torch.from_numpy(wanted_EB[model])] = part
    return filled
