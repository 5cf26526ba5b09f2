"""Gates that no training makes: an expert's row is what its domain's text looks like to the seed.

At each layer's feed-forward the seed's hidden states of the domain's training text are averaged,
each state by its direction alone. A token's logit for an expert is then about 20 times the cosine
of its own hidden state with that mean: a tenth more of it, as much as lies between domains,
makes an expert's weight seven times as large. States are not centred, for a centre would be one of
all domains; as they are, the row of an expert depends on the seed and its own domain's text alone.
So experts join and leave, and the rows of the others stay.

The general expert's row is that of the text of all domains, each as much: it alone knows of others.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.experiment.fields import SpecialTokens
from mdel_assets.machine.shared_cores import sharing_cores
from mdel_assets.model_families.mixture_family import FEED_FORWARD
from mdel_assets.training.layers import layer_list_name, text_config
from mdel_assets.training.model_files import load_model, load_tokenizer, reading
from mdel_assets.training.packing import pack

if TYPE_CHECKING:
    import torch

# Shapes in names: B blocks, T tokens of a block, L layers, D hidden width, E experts.
# Measured on the sample: from 10 to 30 the mixture's loss is the same, at 3 clearly worse.
_SHARPNESS = 20.0
_TOKENS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class TextStates:
    """What the feed-forwards of all layers read of some text, on average over its tokens.

    ``direction_LD`` is the mean of the hidden states, each divided by its length;
    ``inverse_length_L`` the mean of one divided by that length. Both in float64.
    """

    direction_LD: NDArray[np.float64]
    inverse_length_L: NDArray[np.float64]

    @classmethod
    def of_all(cls, parts: "Sequence[TextStates]") -> "TextStates":
        """Return the states of several texts, each counted as much."""
        return cls(
            np.mean([part.direction_LD for part in parts], axis=0),
            np.mean([part.inverse_length_L for part in parts], axis=0),
        )

    def gate_rows(self) -> NDArray[np.float64]:
        """Return (L, D), an expert's row of each layer's gate."""
        lengths_L1 = np.linalg.norm(self.direction_LD, axis=1, keepdims=True)
        rows_LD: NDArray[np.float64] = self.direction_LD * self.inverse_length_L[:, None]
        rows_LD *= _SHARPNESS / lengths_L1
        return rows_LD


def domain_gates(
    seed_folder: Path,
    *,
    datasets: Mapping[str, Path],
    experts: Sequence[str],
    general_expert: bool,
    num_tokens: int,
    block_size: int,
    special_tokens: SpecialTokens = "tokens",
    seed: int = 0,
) -> "torch.Tensor":
    """Return gates (L, E, D) for experts of the domains ``experts``, in that order.

    ``datasets`` maps domains to their folders; of each ``num_tokens`` tokens of its own training
    text, drawn by ``seed``, are read. With ``general_expert`` its row, of all ``datasets``, is the
    last.

    Raises:
        TrainingError: a domain has less text than one block.

    """
    import torch

    model = load_model(seed_folder, dtype="float32")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = reading(load_tokenizer(seed_folder), special_tokens)
    found = {}
    for domain, folder in datasets.items():
        if domain in experts or general_expert:
            blocks_BT = pack(
                SplitDocuments.of(folder / "train.parquet", domain=domain),
                tokenizer,
                block_size=block_size,
                num_blocks=max(1, num_tokens // block_size),
                seed=seed,
            )
            found[domain] = text_states(model, blocks_BT)
    rows = [found[domain].gate_rows() for domain in experts]
    if general_expert:
        rows.append(TextStates.of_all(list(found.values())).gate_rows())
    return torch.from_numpy(np.stack(rows, axis=1)).to(torch.float32)


def text_states(model: Any, blocks_BT: NDArray[np.int32]) -> TextStates:
    """Return what the feed-forwards of ``model`` read of (B, T) token ids."""
    import torch

    num_layers = text_config(model.config).num_hidden_layers
    layers = model.get_submodule(layer_list_name(model, num_layers=num_layers))
    sums = [_Sums() for _ in layers]
    with ExitStack() as stack, torch.inference_mode(), sharing_cores():
        for number, layer in enumerate(layers):
            block = layer.get_submodule(FEED_FORWARD)
            hook = block.register_forward_pre_hook(
                lambda _block, inputs, number=number: sums[number].add(inputs[0])
            )
            stack.callback(hook.remove)
        for ids_BT in _batches(blocks_BT):
            model.base_model(input_ids=ids_BT.to(model.device), use_cache=False)
    return TextStates(
        np.stack([each.direction_D / each.count for each in sums]),
        np.array([each.inverse_length / each.count for each in sums]),
    )


class _Sums:
    """Sums over the hidden states of a layer; one of zeros has no direction and does not count."""

    def __init__(self) -> None:
        self.count = 0
        self.direction_D: NDArray[np.float64] = np.zeros(())
        self.inverse_length = 0.0

    def add(self, states_BTD: "torch.Tensor") -> None:
        states_SD = states_BTD.flatten(0, 1).double()
        lengths_S = states_SD.norm(dim=1)
        states_SD, lengths_S = states_SD[lengths_S > 0], lengths_S[lengths_S > 0]
        self.count += len(lengths_S)
        self.direction_D = self.direction_D + (states_SD / lengths_S[:, None]).sum(0).cpu().numpy()
        self.inverse_length += float((1 / lengths_S).sum())


def _batches(blocks_BT: NDArray[np.int32]) -> "Iterator[torch.Tensor]":
    import torch

    step = max(1, _TOKENS_AT_ONCE // blocks_BT.shape[1])
    for first in range(0, len(blocks_BT), step):
        yield torch.from_numpy(blocks_BT[first : first + step].astype(np.int64))
