"""Figures as people read them, and sizes as they write them."""

import re

_SIZES = ("", "k", "m", "g", "t")
_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z")


def duration_in_words(seconds: float) -> str:
    """Return seconds as ``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def size_in_words(num_bytes: float) -> str:
    """Return bytes as ``1.2 GB``, with powers of 1000."""
    return f"{amount_in_words(num_bytes)}B" if num_bytes >= 1000 else f"{num_bytes:.0f} B"


def amount_in_words(amount: float) -> str:
    """Return a number as ``1.2 M``."""
    for unit in _UNITS:
        if abs(amount) < 999.5 or unit == _UNITS[-1]:
            break
        amount /= 1000.0
    shown = f"{amount:.0f}" if abs(amount) >= 99.5 or amount == int(amount) else f"{amount:.1f}"
    return f"{shown} {unit}".strip()


def parsed_size(text: str, *, kilo: int = 1000) -> float:
    """Return the bytes that ``text`` names, such as ``20GB``, ``500 MB``, ``2GiB`` or ``1.5T``.

    Units are powers of ``kilo``; those with an i are always powers of 1024.

    Raises:
        ValueError: it names none.

    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if match is None:
        raise ValueError(
            f"'{text}' is no size. Give a number and a unit, such as 20GB, 500MB or 1.5TB."
        )
    base = 1024.0 if match[3] else float(kilo)
    return float(match[1]) * base ** _SIZES.index(match[2].lower())
