"""Open the input models of a merge side by side, all with their output layer in one form."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mdel_assets.merging.sources import MergeInput, Source
from mdel_assets.merging.tied_output import with_one_form
from mdel_assets.store.lora_files import LoraFolder
from mdel_assets.store.tensor_files import TensorFolder
from mdel_assets.store.tensor_names import common_names


@contextmanager
def open_sources(inputs: Sequence[MergeInput], *, model_folder: Path) -> Iterator[list[Source]]:
    """Open the inputs' files; the merged model has the configuration in ``model_folder``."""
    with ExitStack() as stack:
        found = []
        for entry in inputs:
            tensors = stack.enter_context(TensorFolder(entry.folder))
            names, added = common_names(tensors.shapes), None
            if entry.adapter:
                added = LoraFolder(entry.adapter, tensors.shapes, name=entry.name)
            found.append(Source(entry, tensors, names, added))
        yield with_one_form(found, model_folder=model_folder)
