"""Numbers as a reader takes them in: to three figures, with a word for their size."""

_WORDS = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"))
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def count_in_words(count: float) -> str:
    """Return a count, like ``1.2 million``; below a million with separators."""
    for size, word in _WORDS:
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count:,.0f}"


def power_of_ten(number: float) -> str:
    """Return a large number like ``1.7 × 10¹²``; a dash for zero."""
    if not number:
        return "–"
    digits, _, exponent = f"{number:.1e}".partition("e")
    return f"{digits} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
