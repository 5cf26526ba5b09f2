"""Domains and sizes to begin with, for a corpus that was looked at and this machine."""

import dataclasses
import os

from mdel_assets.data.held_out import allows_a_verdict
from mdel_assets.data.look import CorpusLook, LabelCount
from mdel_assets.errors import ShardError

_MAX_DOMAINS, _MAX_CLUSTERS = 32, 8
# A domain with less than this share of the largest one's text is left out.
_LEAST_SHARE = 0.01
# What a domain has at least, where none is large enough for a verdict, and some blocks of text.
_FEWEST_DOCUMENTS, _FEWEST_BYTES = 20, 4096
_FEWEST_STEPS = 10
# Small corpora are read several times.
_MAX_EPOCHS = 4
_SMALL_BYTES, _LARGE_BYTES = 20e6, 500e6
_MANY_CORES = 8
_GPU_BYTES = 14 << 30


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a machine computes with: ``gpu_bytes`` is the memory of its GPU, None without one."""

    num_cores: int
    memory_bytes: int
    gpu_bytes: int | None

    def in_words(self) -> str:
        """Return what it has, as a comment tells it."""
        gpu = f"a GPU of {self.gpu_bytes / 2**30:.0f} GiB" if self.gpu_bytes else "no GPU"
        cores = f"{self.num_cores} core{'s' * (self.num_cores != 1)}"
        return f"{cores}, {self.memory_bytes / 2**30:.0f} GiB of memory and {gpu}"


def this_machine() -> Machine:
    """Return what this machine has."""
    import psutil
    import torch

    gpu = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    return Machine(os.cpu_count() or 1, psutil.virtual_memory().total, gpu)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A model to pretrain, in the manner of the bundled sample, and how it is trained."""

    hidden_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    bytes_per_token: float
    block_size: int
    batch_size: int
    seed_learning_rate: float
    expert_learning_rate: float
    seed_tokens: int
    expert_tokens: int
    dtype: str = "float32"


_TINY = Sizes(64, 2, 2, 1024, 2.5, 128, 16, 4.0e-3, 2.0e-3, 1_200_000, 200_000)
_SMALL = Sizes(256, 4, 4, 8192, 3.5, 256, 32, 2.0e-3, 1.0e-3, 20_000_000, 4_000_000)
_MEDIUM = Sizes(
    *(512, 8, 8, 16_384, 4.0, 512, 64, 1.0e-3, 5.0e-4, 400_000_000, 50_000_000),
    dtype="bfloat16",
)


def sizes_for(domain_bytes: list[int], machine: Machine) -> Sizes:
    """Return sizes for domains with so much text: as large as text and machine allow.

    No text is read more than four times, small domains apart: a training has ten steps at least.
    """
    num_bytes = sum(domain_bytes)
    has_gpu = (machine.gpu_bytes or 0) >= _GPU_BYTES
    sizes = _TINY
    if num_bytes >= _SMALL_BYTES and (has_gpu or machine.num_cores >= _MANY_CORES):
        sizes = _MEDIUM if has_gpu and num_bytes >= _LARGE_BYTES else _SMALL
    step = sizes.batch_size * sizes.block_size
    middle = sorted(domain_bytes)[len(domain_bytes) // 2]
    return dataclasses.replace(
        sizes,
        seed_tokens=_whole_steps(sizes.seed_tokens, num_bytes / sizes.bytes_per_token, step),
        expert_tokens=_whole_steps(sizes.expert_tokens, middle / sizes.bytes_per_token, step),
    )


def _whole_steps(most: int, num_tokens: float, step: int) -> int:
    return step * max(_FEWEST_STEPS, int(min(most, _MAX_EPOCHS * num_tokens) / step))


@dataclasses.dataclass(frozen=True)
class Choice:
    """The labels that become domains and those left out, or a number of clusters instead.

    ``num_documents`` are those of the smallest domain.
    """

    domains: tuple[LabelCount, ...]
    left_out: tuple[LabelCount, ...]
    clusters: int | None
    num_documents: int
    domain_bytes: list[int]


def chosen_domains(look: CorpusLook) -> Choice:
    """Return the labels with enough text; clusters where fewer than two have enough.

    Raises:
        ShardError: the corpus holds too few documents for two domains.

    """
    counts = look.counts
    largest = max((label.num_bytes for label in counts.labels), default=0)
    least = max(_FEWEST_BYTES, _LEAST_SHARE * largest)
    large = [label for label in counts.labels if label.num_bytes >= least]
    enough = [label for label in large if allows_a_verdict(label.num_documents)]
    if len(enough) < 2:
        enough = [label for label in large if label.num_documents >= _FEWEST_DOCUMENTS]
    if len(enough) >= 2:
        domains = tuple(enough[:_MAX_DOMAINS])
        return Choice(
            domains=domains,
            left_out=tuple(label for label in counts.labels if label not in domains),
            clusters=None,
            num_documents=min(label.num_documents for label in domains),
            domain_bytes=[label.num_bytes for label in domains],
        )
    if counts.num_documents < 2 * _FEWEST_DOCUMENTS or counts.num_bytes < 2 * _FEWEST_BYTES:
        raise ShardError(
            f"The corpus holds {counts.num_documents} documents with {counts.num_bytes} bytes of "
            f"text, too few for domains: expected {2 * _FEWEST_DOCUMENTS} and "
            f"{2 * _FEWEST_BYTES:,} at least, and some hundreds for a verdict. Give more text."
        )
    number = _MAX_CLUSTERS
    while number > 2 and not allows_a_verdict(counts.num_documents / number):
        number -= 1
    share = counts.num_bytes // number
    return Choice((), (), number, counts.num_documents // number, [share] * number)
