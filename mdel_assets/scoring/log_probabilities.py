"""Log-probabilities of a model for every token of many documents, in natural logarithms.

Windows of all documents are sorted by length and batched by tokens, so that padding wastes little.
Padding is on the right, where a causal model cannot see it, so no attention mask is needed. The
output layer and the log-sum-exp run over tiles of the vocabulary: all logits never exist at once.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from mdel_assets.errors import ScoringError
from mdel_assets.machine.progress import Progress
from mdel_assets.machine.shared_cores import sharing_cores
from mdel_assets.scoring.batches import Inputs, Scores, batches_of, spread
from mdel_assets.scoring.shared_trunk import SharedTrunk
from mdel_assets.scoring.spread_layers import computing_device, is_spread
from mdel_assets.scoring.windows import rolling_windows
from mdel_assets.training.compiled_layers import compiled, layers_of

if TYPE_CHECKING:
    import torch

# Shapes in names: B windows of a batch, T positions, D hidden width, S scored tokens, V vocabulary.
_log = logging.getLogger(__name__)
# A processor is fastest while a batch stays in its caches; a GPU wants much at a time.
_TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 16384}
_VOCABULARY_PER_TILE = 4096
_LOGITS_PER_SLICE = 16 << 20
_LOGITS_ON_GPU = 256 << 20
_HEAD_TOLERANCE = 1e-4
_TRUNK_TOLERANCE = 1e-6


def token_log_probabilities(
    model: Any,
    documents: Sequence[Sequence[int]],
    *,
    prefix: int,
    max_length: int,
    stride: int | None = None,
    tokens_per_batch: int | None = None,
) -> list[NDArray[np.float32]]:
    """Return, per document of token ids, the natural-log probability of each of its tokens.

    ``prefix`` is the token before the first one; ``max_length`` the longest input; ``stride`` the
    number of new tokens that each later window scores (None means ``max_length``).

    Raises:
        ScoringError: the model yields a number that is not finite.

    """
    (found,) = log_probabilities_together(
        [model],
        documents,
        prefix=prefix,
        max_length=max_length,
        stride=stride,
        tokens_per_batch=tokens_per_batch,
    )
    if isinstance(found, ScoringError):
        raise found
    return found


def log_probabilities_together(
    models: Sequence[Any],
    documents: Sequence[Sequence[int]],
    *,
    prefix: int,
    max_length: int,
    stride: int | None = None,
    tokens_per_batch: int | None = None,
) -> list[list[NDArray[np.float32]] | ScoringError]:
    """Return the result of `token_log_probabilities` for several models with one tokenizer.

    A model that yields a non-finite number gets a `ScoringError` instead of its figures; this does
    not affect the others.
    """
    with Scorer(models, tokens_per_batch=tokens_per_batch) as scorer:
        return scorer.score(documents, prefix=prefix, max_length=max_length, stride=stride)


class Scorer:
    """Models ready to score documents; the first layers that all of them share run once.

    ``dtype`` is that of the output layer's matrix products, ``float32`` or ``bfloat16``; the rest
    of a model has its own (`half_precision.halve_linear_layers`). ``num_tokens`` is the total to
    score, if known. ``make_trunk`` connects the models to a shared trunk. Use it as a context
    manager: at the end every model is restored.
    """

    def __init__(
        self,
        models: Sequence[Any],
        *,
        dtype: str = "float32",
        tokens_per_batch: int | None = None,
        num_tokens: int = 0,
        make_trunk: Callable[[Sequence[Any]], SharedTrunk] = SharedTrunk,
    ) -> None:
        rounded: dict[int, torch.Tensor] = {}
        self._heads = [_Head(model, dtype, rounded) for model in models]
        # Hooks around spread layers cannot be compiled.
        whole = [model for model in models if not is_spread(model)]
        self._layers = {id(layer): layer for model in whole for layer in layers_of(model)}
        num_parameters = sum(p.numel() for p in models[0].parameters())
        self._num_operations = 2.0 * num_parameters * num_tokens * len(models)
        self._trunk = _checked_trunk(self._heads, make_trunk)
        device = self._heads[0].device
        self._tokens_per_batch = tokens_per_batch or _TOKENS_PER_BATCH[device.type]
        self._is_cast = device.type == "cuda" and dtype == "bfloat16"
        self._failed: dict[int, ScoringError] = {}
        self._entered = contextlib.ExitStack()

    @property
    def num_shared_layers(self) -> int:
        """How many first layers run once for all models; 0 if each model runs alone."""
        return self._trunk.num_layers

    def __enter__(self) -> Self:
        self._entered.enter_context(sharing_cores())
        layers = list(self._layers.values())
        self._entered.enter_context(
            compiled(layers, num_operations=self._num_operations, varies=True)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()
        self._trunk.unwire()

    def score(
        self,
        documents: Sequence[Sequence[int]],
        *,
        prefix: int,
        max_length: int,
        stride: int | None = None,
        progress: Progress | None = None,
    ) -> list[list[NDArray[np.float32]] | ScoringError]:
        """Return each model's log-probabilities, or why it has none.

        A model that failed once is left out of later calls. ``progress`` counts every token.
        """
        import torch

        work = [
            (number, window)
            for number, tokens in enumerate(documents)
            for window in rolling_windows(
                tokens, prefix=prefix, max_length=max_length, stride=stride
            )
        ]
        work.sort(key=lambda item: len(item[1].inputs), reverse=True)
        results = [[np.empty(len(tokens), np.float32) for tokens in documents] for _ in self._heads]
        progress = progress or scoring_progress(sum(map(len, documents)) * len(self._heads))
        cast = torch.autocast("cuda", torch.bfloat16, enabled=self._is_cast)
        before: list[Scores] = []
        with torch.inference_mode(), cast:
            for batch in batches_of(work, self._tokens_per_batch):
                windows = [window for _, window in batch]
                inputs = Inputs(windows, self._heads[0].device, max_length=max_length)
                self._trunk.run(inputs.ids_BT)
                under_way = [
                    Scores(index, batch, _score(head, inputs))
                    for index, head in enumerate(self._heads)
                    if index not in self._failed
                ]
                # A GPU computes these while the previous ones are collected.
                self._take(before, results)
                before = under_way
                progress.add(len(inputs.targets_S) * len(self._heads))
            self._take(before, results)
        return [self._failed.get(index, result) for index, result in enumerate(results)]

    def _take(self, scores: list["Scores"], results: list[list[NDArray[np.float32]]]) -> None:
        for each in scores:
            values_S = each.values()
            if np.isfinite(values_S).all():
                spread(values_S, each.batch, results[each.index])
            else:
                self._failed[each.index] = _not_finite()


def _not_finite() -> ScoringError:
    return ScoringError(
        "The model gives probabilities that are not finite numbers: its weights are damaged or its "
        "training diverged. Train it again."
    )


def _checked_trunk(
    heads: Sequence["_Head"], make_trunk: Callable[[Sequence[Any]], SharedTrunk]
) -> SharedTrunk:
    """Connect the models to a shared trunk, and check that each still gives its own results."""
    import torch

    trunk = make_trunk([head.model for head in heads])
    with torch.inference_mode():
        trunk.run(heads[0].probe_BT)
        changed = trunk.num_layers and any(head.probe_changed() for head in heads)
    if changed:
        _log.warning("the models' shared layers cannot run separately; each model runs alone")
        trunk.unwire()
    return trunk


def _score(head: "_Head", inputs: Inputs) -> "torch.Tensor":
    """Return the log-probabilities of all targets of a batch, one window after the other."""
    hidden_SD = head.hidden(inputs.ids_BT).flatten(0, 1)[inputs.rows_S]
    return head.log_probabilities(hidden_SD, inputs.targets_S)


class _Head:
    """A model in two steps, hidden states and logits, if its architecture allows that.

    Some models scale or cap their logits after the output layer. A probe detects this: if the
    output layer applied to hidden states differs from the model's own logits, the model is not
    split. ``rounded`` caches output layers in ``dtype``, by the id of the weight, for all models.
    """

    def __init__(self, model: Any, dtype: str, rounded: "dict[int, torch.Tensor]") -> None:
        import torch

        from mdel_assets.training.stored_precision import WideningLinear

        self.model = model
        self.dtype = getattr(torch, dtype)
        self.device = computing_device(model)
        self.output = model.get_output_embeddings()
        self.body = model.base_model
        vocabulary = model.get_input_embeddings().weight.shape[0]
        self.probe_BT = probe_BT = torch.arange(16, device=self.device)[None] % vocabulary
        with torch.inference_mode():
            own = model(input_ids=probe_BT, use_cache=False).logits
            self._probed = own
            self.is_split = False
            if self.output is not None and self.body is not model:
                hidden = self.body(input_ids=probe_BT, use_cache=False).last_hidden_state
                split = self.output(hidden)
                scale = own.float().abs().max().item() + 1e-6
                self.is_split = split.shape == own.shape and bool(
                    ((split - own).float().abs().max() <= _HEAD_TOLERANCE * scale).item()
                )
        self.vocab_size = own.shape[-1]
        self.is_tiled = self.is_split and type(self.output) in (torch.nn.Linear, WideningLinear)
        self.tiled_VD = self.output.weight if self.is_tiled else None
        if self.tiled_VD is not None and (self.tiled_VD.is_cuda or dtype != "float32"):
            # Models that share their output layer also share its rounded copy.
            key = id(self.tiled_VD)
            self.tiled_VD = rounded.setdefault(key, self.tiled_VD.to(self.dtype))

    def probe_changed(self) -> bool:
        """Whether the model's logits of the probe have changed."""
        now = self.model(input_ids=self.probe_BT, use_cache=False).logits
        scale = self._probed.float().abs().max().item() + 1e-6
        return bool(((now - self._probed).float().abs().max() > _TRUNK_TOLERANCE * scale).item())

    def hidden(self, ids_BT: "torch.Tensor") -> "torch.Tensor":
        """Return hidden states, or the logits themselves if the model cannot be split."""
        if self.is_split:
            hidden_BTD = self.body(input_ids=ids_BT, use_cache=False).last_hidden_state
            # A model that is spread over GPUs ends on another one than it begins on.
            return hidden_BTD.to(self.device)  # type: ignore[no-any-return]
        return self.model(input_ids=ids_BT, use_cache=False).logits  # type: ignore[no-any-return]

    def log_probabilities(
        self, hidden_SD: "torch.Tensor", targets_S: "torch.Tensor"
    ) -> "torch.Tensor":
        """Return the (S,) fp32 log-probabilities of ``targets_S`` after `hidden`'s vectors."""
        import torch

        if self.is_tiled and hidden_SD.is_cuda:
            return self._by_rows(hidden_SD, targets_S)
        if self.is_tiled:
            return self._by_tiles(hidden_SD, targets_S)
        step = max(1, _LOGITS_PER_SLICE // self.vocab_size)
        parts = []
        for first in range(0, len(hidden_SD), step):
            part_SD = hidden_SD[first : first + step]
            logits_SV = (self.output(part_SD) if self.is_split else part_SD).float()
            chosen_S = logits_SV.gather(1, targets_S[first : first + step, None])[:, 0]
            parts.append(chosen_S - logits_SV.logsumexp(dim=1))
        return torch.cat(parts)

    def _by_rows(self, hidden_SD: "torch.Tensor", targets_S: "torch.Tensor") -> "torch.Tensor":
        """Run some thousand rows through the whole output layer: large products fill a GPU.

        The library's softmax reads its memory least often. The likeliest word's probability is
        1 / sum(exp(logit - highest)), which gives the others' logarithms without another pass.
        """
        import torch

        assert self.tiled_VD is not None
        bias_V = None if self.output.bias is None else self.output.bias.to(self.dtype)
        step = max(1, _LOGITS_ON_GPU // self.vocab_size)
        parts = []
        for first in range(0, len(hidden_SD), step):
            rows_RD = hidden_SD[first : first + step].to(self.dtype)
            logits_RV = torch.nn.functional.linear(rows_RD, self.tiled_VD, bias_V)
            highest_R1, likeliest_R1 = logits_RV.max(dim=1, keepdim=True)
            chosen_R1 = logits_RV.gather(1, targets_S[first : first + step, None])
            shares_RV = torch.softmax(logits_RV, dim=1, dtype=torch.float32)
            log_sums_R1 = -shares_RV.gather(1, likeliest_R1).log()
            parts.append((chosen_R1.float() - highest_R1.float() - log_sums_R1)[:, 0])
        return torch.cat(parts)

    def _by_tiles(self, hidden_SD: "torch.Tensor", targets_S: "torch.Tensor") -> "torch.Tensor":
        """Run the output layer over some thousand words at a time: large products, small memory.

        The sum contains a target's own logit exactly as it is used, so rounding gives no
        probability above 1.
        """
        import torch

        assert self.tiled_VD is not None
        bias_V = self.output.bias
        if bias_V is not None:
            bias_V = bias_V.to(self.dtype)
        chosen_S = torch.empty(len(hidden_SD), device=self.device, dtype=torch.float64)
        total_S = torch.full_like(chosen_S, -torch.inf)
        rounded_SD = hidden_SD.to(self.dtype)
        for first in range(0, self.vocab_size, _VOCABULARY_PER_TILE):
            last = min(first + _VOCABULARY_PER_TILE, self.vocab_size)
            bias = None if bias_V is None else bias_V[first:last]
            tile_VD = self.tiled_VD[first:last].to(self.dtype)
            logits_SV = torch.nn.functional.linear(rounded_SD, tile_VD, bias).float()
            inside_S = ((targets_S >= first) & (targets_S < last)).nonzero()[:, 0]
            places = (inside_S, targets_S[inside_S] - first)
            chosen_S[inside_S] = logits_SV[places].double()
            # In place, for another array of this size costs as much as the exponentials; what is
            # left of fp32 is added in fp64, for tokens are improbable and their digits count.
            highest_S = logits_SV.amax(dim=1)
            sums_S = logits_SV.sub_(highest_S[:, None]).exp_().sum(dim=1)
            total_S = torch.logaddexp(total_S, highest_S.double() + sums_S.double().log())
        return (chosen_S - total_S).float()


def scoring_progress(num_tokens: int) -> Progress:
    """Return what logs how far the scoring of ``num_tokens`` tokens is."""
    return Progress(
        lambda p: f"{p.done:.0f} of {num_tokens} tokens, {p.rate:.0f} tokens/s", total=num_tokens
    )
