"""Tables in Markdown."""


def as_markdown(rows: list[list[str]]) -> list[str]:
    """Return rows of cells, the header first, as the lines of a Markdown table."""
    header, *body = rows
    ruler = ["---", *("---:" for _ in header[1:])]
    return ["| " + " | ".join(row) + " |" for row in (header, ruler, *body)]
