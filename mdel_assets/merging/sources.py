"""The input models of a merge, which are compared before anything is written.

`Source.read` gives elements of a tensor in fp32, by its common name, and refuses a NaN or infinity.
"""

import dataclasses
import filecmp
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import MergeError
from mdel_assets.store.lora_files import LoraFolder
from mdel_assets.store.tensor_files import TensorFolder, torch_dtype
from mdel_assets.store.tensor_headers import StoredTensor

if TYPE_CHECKING:
    import torch

OUTPUT_NAME = "lm_head.weight"
_SHOWN_DIFFERENCES = 12


@dataclasses.dataclass(frozen=True)
class MergeInput:
    """One model of a merge: its name in messages, its folder, its own parameters.

    ``trained_prefixes`` are the prefixes of the names of tensors that may differ from the seed;
    everything else equals the seed to the bit. None if this is unknown. ``digest`` replaces its
    name in random draws if the name is only a path. ``adapter`` is the folder of a LoRA adapter
    that is merged into it.
    """

    name: str
    folder: Path
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trained_prefixes: tuple[str, ...] | None = None
    digest: str | None = None
    adapter: Path | None = None

    def with_adapter(self, name: str, folder: Path, digest: str) -> "MergeInput":
        """Return the model called ``name``, into which the adapter in ``folder`` is merged."""
        return MergeInput(name, self.folder, self.parameters, digest=digest, adapter=folder)


@dataclasses.dataclass(frozen=True)
class Source:
    """An input's tensors, by their common names, with its adapter merged into them."""

    entry: MergeInput
    tensors: TensorFolder
    own_names: Mapping[str, str]
    adapter: LoraFolder | None

    def is_frozen(self, name: str) -> bool | None:
        """Whether the model's record says that the tensor is the seed's; None without a record."""
        prefixes = self.entry.trained_prefixes
        return None if prefixes is None else not self.own_names[name].startswith(prefixes)

    def stored(self, name: str) -> StoredTensor:
        """Return the tensor's place in the files."""
        return self.tensors.stored[self.own_names[name]]

    def read_stored(self, name: str, first: int, last: int) -> "torch.Tensor":
        """Return elements ``first`` to ``last`` (exclusive) in the dtype of the files."""
        return self._read(name, first, last).to(torch_dtype(self.stored(name).dtype))

    def _read(self, name: str, first: int, last: int) -> "torch.Tensor":
        """Return elements as they are stored, or in fp32 where the adapter changes them."""
        own = self.own_names[name]
        found = self.tensors.read_flat(own, first, last)
        if self.adapter is None or not self.adapter.changes(own):
            return found
        widened = found.float()
        self.adapter.add_to(widened, own, self.tensors.shapes[own], first=first)
        return widened

    def read(self, name: str, first: int, last: int, *, check: bool = True) -> "torch.Tensor":
        """Return elements ``first`` to ``last`` (exclusive) in fp32.

        Raises:
            MergeError: with ``check``, one of them is a NaN or infinity.

        """
        import torch

        found = self._read(name, first, last).to(torch.float32)
        if check and not math.isfinite(largest_magnitude(found)):
            raise MergeError(
                f"{self.entry.name} holds a NaN or infinity in {name}. Train it again, or remove "
                f"it from the recipe."
            )
        return found


def largest_magnitude(numbers: "torch.Tensor") -> float:
    """Return the largest absolute value; NaN or infinity if one of the numbers is."""
    import torch

    if not numbers.numel():
        return 0.0
    low, high = torch.aminmax(numbers)
    return max(-float(low), float(high))


def refuse_differences(
    sources: Sequence[Source], *, tokenizer_folder: Path | None, dtypes_may_differ: bool
) -> None:
    """Raise `MergeError` with every way in which a source differs from the first.

    Tensors' names, shapes and dtypes are compared, and tokenizers' vocabularies with that of
    ``tokenizer_folder`` if there is one.
    """
    first = sources[0]
    found = [
        f"{source.entry.name} has another tokenizer vocabulary than {tokenizer_folder.name} (set "
        f"tokenizer_source: union to merge them anyway)"
        for source in sources
        if tokenizer_folder and not _have_same_vocabulary(source.entry.folder, tokenizer_folder)
    ]
    for source in sources[1:]:
        for name in sorted({*first.own_names, *source.own_names}):
            if name not in source.own_names:
                found.append(_lack(name, of=source, beside=first))
            elif name not in first.own_names:
                found.append(_lack(name, of=first, beside=source))
            else:
                found += _differences(name, first, source, dtypes_may_differ=dtypes_may_differ)
    if found:
        more = len(found) - _SHOWN_DIFFERENCES
        shown = "; ".join(found[:_SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise MergeError(
            f"These models cannot be merged: {shown}. Merge models with the same tensors and the "
            f"same vocabulary, such as experts of one seed model."
        )


def _lack(name: str, *, of: Source, beside: Source) -> str:
    """Return a sentence about a tensor that a model lacks and another has."""
    if name != OUTPUT_NAME:
        return f"{of.entry.name} lacks {name}, which {beside.entry.name} has"
    return (
        f"{of.entry.name} uses its embedding as output layer, but {beside.entry.name} has a "
        f"{name} that is not a copy of its embedding"
    )


def _differences(
    name: str, first: Source, other: Source, *, dtypes_may_differ: bool
) -> Iterator[str]:
    ours, theirs = first.stored(name), other.stored(name)
    if ours.shape != theirs.shape:
        yield (
            f"{name} is {list(ours.shape)} in {first.entry.name}, "
            f"{list(theirs.shape)} in {other.entry.name}"
        )
    if ours.dtype != theirs.dtype and not dtypes_may_differ:
        yield (
            f"{name} is {ours.dtype} in {first.entry.name}, {theirs.dtype} in "
            f"{other.entry.name} (set out_dtype to merge them anyway)"
        )


def _have_same_vocabulary(first: Path, second: Path) -> bool:
    """Whether two models' tokenizers have the same vocabulary; identical files are not read."""
    ours, theirs = first / "tokenizer.json", second / "tokenizer.json"
    if ours.is_file() and theirs.is_file() and filecmp.cmp(ours, theirs, shallow=False):
        return True
    return _vocabulary(ours) == _vocabulary(theirs)


def _vocabulary(path: Path) -> object:
    if not path.is_file():
        return None
    content = json.loads(path.read_text("utf-8"))
    return content.get("model", {}).get("vocab"), content.get("added_tokens")
