"""A corpus of the Pile's shape: 22 domains, each with its share of text and its documents' lengths.

The words are those of the sample corpus, as frequent as they are there, in random order; one in
twelve is of the domain's own choice. So text has the tokens of English, and a router has something
to learn. Shares and mean lengths are those of the Pile's paper (Gao et al. 2020, table 1).
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdel_assets.data.sample_corpus import SHARD_NAMES, sample_shard
from mdel_assets.experiment.pile_domains import PILE_DOMAINS

# Per cent of the text, and kB of the mean document.
SHAPES = {
    "pile_cc": (18.11, 4.33),
    "pubmed_central": (14.40, 30.55),
    "books3": (12.07, 538.36),
    "openwebtext2": (10.01, 3.85),
    "arxiv": (8.96, 46.61),
    "github": (7.59, 5.25),
    "freelaw": (6.12, 15.06),
    "stackexchange": (5.13, 2.16),
    "uspto": (3.65, 4.08),
    "pubmed_abstracts": (3.07, 1.30),
    "gutenberg": (2.17, 398.73),
    "opensubtitles": (1.55, 30.48),
    "wikipedia": (1.53, 1.11),
    "dm_mathematics": (1.24, 8.00),
    "ubuntu_irc": (0.88, 545.48),
    "bookcorpus2": (0.75, 369.87),
    "europarl": (0.73, 68.87),
    "hackernews": (0.62, 4.92),
    "youtubesubtitles": (0.60, 22.55),
    "philpapers": (0.38, 73.37),
    "nih_exporter": (0.30, 2.11),
    "enron": (0.14, 1.78),
}
_SHARE_HELD_OUT, _MIN_HELD_OUT = 0.01, 8
_SPREAD = 0.6
_SHARE_OF_OWN_WORDS = 1 / 12
_NUM_OWN_WORDS = 50
_LONGEST_WORD = 15
_WORDS_AT_ONCE = 1 << 20


def write_corpus(folder: Path, *, num_bytes: int, num_shards: int, cache: Path) -> list[Path]:
    """Write ``num_shards`` train shards of ``num_bytes`` of text in all, and val and test.

    Return the paths in that order; what is there already is left as it is.
    """
    words = _Words(cache)
    names = [f"{number:02}.jsonl.zst" for number in range(num_shards)]
    sizes = [num_bytes / num_shards] * num_shards + [num_bytes * _SHARE_HELD_OUT] * 2
    paths = [folder / name for name in [*names, *SHARD_NAMES[1:]]]
    for seed, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        if path.exists():
            continue
        partial = path.with_suffix(".partial")
        with partial.open("wb") as raw, pa.CompressedOutputStream(raw, "zstd") as out:
            for line in _lines(words, size, seed):
                out.write(line)
        partial.rename(path)
    return paths


def texts(domain: str, *, count: int, length: int, cache: Path) -> list[str]:
    """Return ``count`` texts of a domain, of ``length`` characters each."""
    number = list(SHAPES).index(domain)
    stream = _Words(cache).stream(number, np.random.default_rng(number))
    return [stream.take(length) for _ in range(count)]


def _lines(words: "_Words", num_bytes: float, seed: int) -> Iterator[bytes]:
    draw = np.random.default_rng(seed)
    lengths: list[NDArray[np.int64]] = []
    for share, kilobytes in SHAPES.values():
        count = max(_MIN_HELD_OUT, round(num_bytes * share / 100 / (kilobytes * 1000)))
        centre = math.log(kilobytes * 1000) - _SPREAD**2 / 2
        lengths.append(draw.lognormal(centre, _SPREAD, count).astype(np.int64) + 20)
    of_domain = np.repeat(np.arange(len(lengths)), [len(own) for own in lengths])
    length = np.concatenate(lengths)
    names = {domain.key: domain.name for domain in PILE_DOMAINS}
    labels = [names[key] for key in SHAPES]
    streams = [words.stream(number, draw) for number in range(len(labels))]
    for place in draw.permutation(len(length)):
        domain = int(of_domain[place])
        text = streams[domain].take(int(length[place]))
        yield json.dumps({"text": text, "meta": {"pile_set_name": labels[domain]}}).encode() + b"\n"


class _Words:
    """The words of the sample's training text, and how frequent each is."""

    def __init__(self, cache: Path) -> None:
        path = sample_shard(SHARD_NAMES[0], cache=cache)
        found: Counter[str] = Counter()
        with pa.CompressedInputStream(path.open("rb"), "zstd") as stream:
            for line in stream.read().decode().splitlines():
                found.update(
                    re.findall(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]", json.loads(line)["text"])
                )
        words = sorted(word for word in found if word.isascii() and len(word) <= _LONGEST_WORD)
        counts = np.array([found[word] for word in words], np.float64)
        self.shares = np.cumsum(counts) / counts.sum()
        padded = [f"{word} ".encode().ljust(_LONGEST_WORD + 1, b"\0") for word in words]
        self.letters = np.frombuffer(b"".join(padded), np.uint8).reshape(len(words), -1)

    def stream(self, domain: int, draw: np.random.Generator) -> "_Stream":
        return _Stream(self, domain, draw)


class _Stream:
    """Endless text of one domain."""

    def __init__(self, words: _Words, domain: int, draw: np.random.Generator) -> None:
        self._words, self._draw = words, draw
        own = np.random.default_rng(domain)
        self._own = own.choice(len(words.letters), _NUM_OWN_WORDS, replace=False)
        self._parts: list[str] = []
        self._have = 0

    def take(self, count: int) -> str:
        """Return the next ``count`` characters."""
        while self._have < count:
            self._parts.append(self._more(count - self._have))
            self._have += len(self._parts[-1])
        text = "".join(self._parts)
        self._parts, self._have = [text[count:]], len(text) - count
        return text[:count]

    def _more(self, count: int) -> str:
        number = min(_WORDS_AT_ONCE, max(2048, count // 5))
        chosen = np.searchsorted(self._words.shares, self._draw.random(number))
        is_own = self._draw.random(number) < _SHARE_OF_OWN_WORDS
        chosen[is_own] = self._draw.choice(self._own, int(is_own.sum()))
        letters = self._words.letters[np.minimum(chosen, len(self._words.letters) - 1)].ravel()
        return letters[letters != 0].tobytes().decode("ascii")
