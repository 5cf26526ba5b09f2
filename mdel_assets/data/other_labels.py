"""Labels of no domain: count them, and compare them with the domains' labels.

A label that differs from a domain's only in case, spaces, hyphens, underscores or the form of its
accents (one character, or a letter and a mark, as in folders of a Mac) is *another spelling* of it,
and is never left out: ``GitHub`` is the domain ``Github``. A label that is merely *similar*
(``Githubb``, or ``Wikipedia`` compared with ``Wikipedia (en)``) may be another domain or a mistake:
it is left out and named.
"""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

_NUM_COUNTED = 10_000
_NUM_SHOWN = 20
_NUM_NAMED = 5
_LABEL_CHARACTERS = 80
_SIMILARITY = 0.8
_UNTOLD = re.compile(r"[\s_-]+")


class OtherLabels:
    """Counts labels that are not in ``known``; remembers at most ten thousand of them."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = {simplified(name): name for name in known}
        self._counts: Counter[str] = Counter()
        self._similar: dict[str, str] = {}

    def is_another_spelling(self, label: str) -> bool:
        """Whether ``label`` is a known one in another spelling."""
        return simplified(label) in self._known

    def count(self, label: str) -> None:
        """Count a document with this label."""
        label = label[:_LABEL_CHARACTERS]
        if label not in self._counts:
            if len(self._counts) >= _NUM_COUNTED:
                return
            self._compare(label)
        self._counts[label] += 1

    def most_common(self) -> dict[str, int]:
        """Return the documents of the most frequent labels, and of all in `similar`."""
        shown = {*dict(self._counts.most_common(_NUM_SHOWN)), *self.similar()}
        return {label: n for label, n in self._counts.most_common() if label in shown}

    def similar(self) -> dict[str, str]:
        """Return labels that resemble a known one, most frequent first, with that one."""
        frequent = sorted(self._similar, key=lambda label: -self._counts[label])
        return {label: self._similar[label] for label in frequent[:_NUM_SHOWN]}

    def _compare(self, label: str) -> None:
        spelt = simplified(label)
        nearest = difflib.get_close_matches(spelt, self._known, n=1, cutoff=_SIMILARITY)
        if nearest:
            self._similar[label] = self._known[nearest[0]]


def labels_in_words(counts: Mapping[str, int], similar: Mapping[str, str]) -> str:
    """Return labels with their counts, and for similar ones the label that may be meant.

    Similar ones come first, however rare, because they may be mistakes.
    """
    names = [*similar, *(label for label in counts if label not in similar)]
    shown = [f"'{name}' ({counts[name]}{_hint(similar.get(name))})" for name in names[:_NUM_NAMED]]
    return ", ".join(shown) + (", ..." if len(names) > _NUM_NAMED else "")


def _hint(nearest: str | None) -> str:
    return f", like '{nearest}'" if nearest else ""


def simplified(label: str) -> str:
    """Return what all spellings of a label have in common."""
    return _UNTOLD.sub("", unicodedata.normalize("NFKC", label).casefold())
