"""What a page holds, by Python's own parser of HTML."""

from html.parser import HTMLParser

# They have no end tag.
VOID = {"meta", "br", "wbr", "rect", "line", "path", "use"}


class Read(HTMLParser):
    """Reads a page: every element with its attributes, and the text of the rows of its tables."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.misnested = [], [], []
        # The rows of each table, by the name of the box that it scrolls in.
        self.tables, self.box = {}, ""
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.box = dict(attributes).get("aria-label", self.box)
        if tag == "tr":
            self.tables.setdefault(self.box, []).append([])
        if tag in ("th", "td"):
            self.tables[self.box][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.misnested.append(tag)

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if {"th", "td"} & set(self.open):
            self.tables[self.box][-1][-1] += data

    def row(self, table, name):
        """Return the row of the table that begins with ``name``."""
        return next(row for row in self.tables[table] if row[0] == name)
