"""Embeddings of models with different tokenizers, seen with the rows of one tokenizer.

`VocabularySource` is a model's tensors in which embedding and output layer are read through a
table: for each row of the merged model, the model and the row it comes from. Nothing is written in
between, and nothing is read before it is asked for.

A model's own embedding of a token counts, unless the recipe forces another. Where a model lacks a
token, it gets: what the recipe gives; the embedding of the only model that has the token; that of
the base; the mean of the models that have it; zero if none has. Rows of padding are the mean of all
others.

Shapes: R rows of the merged vocabulary, W numbers in a row.
"""

import dataclasses
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import MergeError
from mdel_assets.experiment.merged_models import with_adapter
from mdel_assets.merging.slices import Part
from mdel_assets.merging.sources import OUTPUT_NAME, Source
from mdel_assets.merging.united_tokenizer import TokenRow, UnitedTokenizer, vocabulary_size
from mdel_assets.store.tensor_files import is_float, torch_dtype
from mdel_assets.store.tensor_headers import StoredTensor
from mdel_assets.store.tensor_names import is_input_embedding

if TYPE_CHECKING:
    import numpy as np
    import torch

_OUTPUTS = (OUTPUT_NAME, OUTPUT_NAME.replace("weight", "bias"))
_POSITIONS = re.compile(r"(^|\.)(wpe|\w*(pos|type)\w*)(\.|$)")
# A model of a part: its folder, and that of the adapter that is merged into it.
_Model = tuple[Path, Path | None]
# What stands for a donor of a row.
_ZERO, _MEAN, _PADDING = -1, -2, -3


@dataclasses.dataclass(frozen=True)
class Rows:
    """Where a model's rows come from: a donor, by number, and the row there.

    ``means`` has the donors and rows that the mean of a row is made of.
    """

    donor_R: "np.ndarray[Any, Any]"
    row_R: "np.ndarray[Any, Any]"
    means: Mapping[int, Sequence[tuple[int, int]]]
    num_used: int

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield rows ``first`` to ``last`` in runs: begin, end, donor, the donor's first row."""
        import numpy as np

        donor, row = self.donor_R[first:last], self.row_R[first:last]
        is_next = (np.diff(donor) == 0) & ((np.diff(row) == 1) | (donor[1:] < 0))
        begins = np.concatenate([[0], np.flatnonzero(~is_next) + 1]).tolist()
        for begin, end in zip(begins, [*begins[1:], last - first], strict=True):
            yield first + begin, first + end, int(donor[begin]), int(row[begin])


@dataclasses.dataclass(frozen=True)
class VocabularySource(Source):
    """A source whose tensors called ``names`` have the merged model's vocabulary.

    ``donors`` are the models as they are, by their numbers in ``rows``.
    """

    rows: Rows
    donors: tuple[Source, ...]
    names: frozenset[str]
    padding: "dict[str, torch.Tensor]" = dataclasses.field(default_factory=dict)
    lock: Any = dataclasses.field(default_factory=threading.Lock)

    def stored(self, name: str) -> StoredTensor:
        """Return the tensor's place, with the shape that it has in the merged model."""
        found = super().stored(name)
        if name not in self.names:
            return found
        shape = (len(self.rows.donor_R), *found.shape[1:])
        return dataclasses.replace(found, shape=shape)

    def read_stored(self, name: str, first: int, last: int) -> "torch.Tensor":
        """Return elements as they are stored; means are rounded to the tensor's dtype."""
        if name not in self.names:
            return super().read_stored(name, first, last)
        return self._moved(name, first, last, check=False).to(torch_dtype(self.stored(name).dtype))

    def read(self, name: str, first: int, last: int, *, check: bool = True) -> "torch.Tensor":
        """Return elements in fp32.

        Raises:
            MergeError: with ``check``, one of them is a NaN or infinity.

        """
        if name not in self.names:
            return super().read(name, first, last, check=check)
        return self._moved(name, first, last, check=check)

    def _moved(self, name: str, first: int, last: int, *, check: bool) -> "torch.Tensor":
        """Return elements ``first`` to ``last`` (exclusive) of the tensor with moved rows."""
        import torch

        width = math.prod(self.stored(name).shape[1:])
        begin, end = first // width, -(-last // width)
        found_RW = torch.zeros((end - begin, width))
        for at, until, donor, row in self.rows.runs(begin, end):
            part_RW = found_RW[at - begin : until - begin]
            if donor >= 0:
                span = (row * width, (row + until - at) * width)
                read = self.donors[donor].read(name, *span, check=check)
                part_RW.copy_(read.view(-1, width))
            elif donor == _MEAN:
                for place in range(at, until):
                    found_RW[place - begin] = self._mean(name, place, width, check=check)
            elif donor == _PADDING:
                part_RW.copy_(self._padding(name).expand_as(part_RW))
        return found_RW.view(-1)[first - begin * width : last - begin * width]

    def _mean(self, name: str, place: int, width: int, *, check: bool) -> "torch.Tensor":
        import torch

        total_W = torch.zeros(width)
        entries = self.rows.means[place]
        for donor, row in entries:
            span = (row * width, (row + 1) * width)
            total_W = total_W + self.donors[donor].read(name, *span, check=check)
        return total_W / len(entries)

    def _padding(self, name: str) -> "torch.Tensor":
        """Return the mean of all rows of tokens; one matrix at a time is held for it."""
        import torch

        with self.lock:
            if name not in self.padding:
                width = math.prod(self.stored(name).shape[1:])
                used = self._moved(name, 0, self.rows.num_used * width, check=True)
                self.padding[name] = torch.mean(used.view(-1, width), dim=0)
            return self.padding[name]


def with_vocabulary(part: Part, united: UnitedTokenizer, *, is_first: bool) -> Part:
    """Return a part of the merged model whose sources have the merged model's vocabulary.

    Raises:
        MergeError: a model has no embedding with as many rows as its configuration says, or a
            token's embedding is that of a model that is not in this part.

    """
    donors = {_model_of(source): source for source in part.sources}
    sizes = {folder: vocabulary_size(folder) for folder, _ in donors}
    names = [_vocabulary_names(s, sizes[s.entry.folder]) for s in part.sources]
    for source, own in zip(part.sources, names, strict=True):
        if is_first and not own:
            raise MergeError(
                f"{source.entry.name} has no embedding with {sizes[source.entry.folder]} rows, "
                f"which its configuration gives as vocab_size, so its rows cannot be put in the "
                f"order of another tokenizer. Correct its config.json."
            )
    if not any(names):
        return part
    base = _model_of(part.sources[-1]) if part.has_base else None
    tables = _tables(united, list(donors), base)
    lock = threading.Lock()
    everyone = tuple(donors.values())
    sources = [
        VocabularySource(
            **{f.name: getattr(source, f.name) for f in dataclasses.fields(Source)},
            rows=tables[_model_of(source)],
            donors=everyone,
            names=own,
            lock=lock,
        )
        for source, own in zip(part.sources, names, strict=True)
    ]
    return dataclasses.replace(part, sources=tuple(sources))


def _model_of(source: Source) -> _Model:
    return source.entry.folder, source.entry.adapter


def _vocabulary_names(source: Source, size: int | None) -> frozenset[str]:
    """Return the tensors that have a row for each token, by their common names."""
    return frozenset(
        name
        for name in source.own_names
        if (name in _OUTPUTS or (is_input_embedding(name) and not _POSITIONS.search(name)))
        and is_float(source.stored(name).dtype)
        and source.stored(name).shape[0] in (size, None if size else source.stored(name).shape[0])
    )


def _tables(
    united: UnitedTokenizer, models: Sequence[_Model], base: _Model | None
) -> dict[_Model, Rows]:
    """Return each model's rows; ``models`` are those of one part, by number."""
    import numpy as np

    shape = united.num_rows
    donor = {model: np.full(shape, _ZERO, np.int16) for model in models}
    row = {model: np.zeros(shape, np.int64) for model in models}
    own_ids = [united.own_ids[folder] for folder, _ in models]
    means: dict[int, list[tuple[int, int]]] = {}
    for token, place in united.ids.items():
        own = [ids.get(token) for ids in own_ids]
        given = united.given.get(token)
        is_forced = given is not None and given.force
        spare = (_ZERO, 0)
        if is_forced or None in own:
            has = [(number, at) for number, at in enumerate(own) if at is not None]
            spare = _spare(token, given, has, models, base)
            if spare[0] == _MEAN:
                means[place] = has
        for number, model in enumerate(models):
            at = own[number]
            donor[model][place], row[model][place] = (
                spare if is_forced or at is None else (number, at)
            )
    for model in models:
        donor[model][united.num_used :] = _PADDING
    return {m: Rows(donor[m], row[m], means, united.num_used) for m in models}


def _spare(
    token: str,
    given: TokenRow | None,
    has: Sequence[tuple[int, int]],
    models: Sequence[_Model],
    base: _Model | None,
) -> tuple[int, int]:
    """Return the donor and its row for models that lack a token; ``has`` are those that do not."""
    if given is not None:
        if given.folder is None:
            return _ZERO, 0
        model = (given.folder, given.adapter)
        if model not in models:
            names = ", ".join(map(_shown, models))
            raise MergeError(
                f"tokenizer.tokens: the embedding of {token!r} is to be that of "
                f"{_shown(model)}, which is not among the models that the embedding is merged "
                f"from ({names}). Name one of those, or add it to the slice."
            )
        return models.index(model), given.row
    if len(has) < 2:
        return has[0] if has else (_ZERO, 0)
    of_base = [entry for entry in has if models[entry[0]] == base]
    return of_base[0] if of_base else (_MEAN, 0)


def _shown(model: _Model) -> str:
    folder, adapter = model
    return with_adapter(folder.name, adapter.name if adapter else None)
