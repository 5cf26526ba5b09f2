"""A corpus of 5,000 documents with every kind of dirt planted, and an oracle that knows the answer.

The oracle reads with the standard library and zstandard alone, knows nothing of the pipeline's
code, and holds everything in dictionaries and sets. The salted hash that draws splits and general
halves is written down here a second time, with plain integers.
"""

import json
import random
import struct
from pathlib import Path

import xxhash
import zstandard

LABELS = {"Github": "github", "GitHub": "github", "ArXiv": "arxiv", "FreeLaw": "freelaw"}
KEYS = ("github", "arxiv", "freelaw", "enron")
_MASK = 2**64 - 1
_SKIPPABLE = struct.pack("<II", 0x184D2A5E, 4) + b"skip"


def _line(text, label, **more):
    return json.dumps({"text": text, "meta": {"pile_set_name": label}, **more}).encode()


def _escaped(text, label):
    """The same document, every character escaped, keys in another order, other spacing."""
    letters = "".join(f"\\u{ord(c):04x}" for c in text)
    return f'{{ "meta" : {{"x":[{{}}],"pile_set_name": "{label}"}} , "text":"{letters}" }}'.encode()


def plant(folder: Path) -> None:
    """Write ``00`` and ``01`` (train) and ``val``; test documents are held out by hash."""
    draw = random.Random(0)
    words = [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "zeta",
        "ήτα",
        "θήτα",
        "🙂",
        '"',
        "\\",
        "/",
    ]

    def text(number):
        return f"{number} " + " ".join(draw.choices(words, k=draw.randint(0, 60)))

    documents = [(text(n), draw.choice(["Github", "GitHub", "ArXiv"])) for n in range(4400)]
    documents += [(text(n), "FreeLaw") for n in range(4400, 4700)]
    draw.shuffle(documents)
    lines = [_line(*d) if n % 7 else _escaped(*d) for n, d in enumerate(documents)]
    lines += [_line(*draw.choice(documents)) for _ in range(200)]  # copies
    lines += [_escaped(*draw.choice(documents)) for _ in range(50)]  # copies, spelled differently
    lines += [_line(t, "FreeLaw") for t, _ in draw.sample(documents, 20)]  # under another label
    lines += dirt()
    draw.shuffle(lines)
    evaluation = [_line(text(n), label) for n in range(9000, 9100) for label in ("Github", "ArXiv")]
    evaluation += [*draw.sample(lines, 60), *dirt()]
    third = len(lines) // 3
    compress = zstandard.compress
    first = b"\n".join(lines[:third]) + b"\n"
    frames = [first[:50_000], first[50_000:50_001], b"", first[50_001:]]
    (folder / "00.jsonl.zst").write_bytes(_SKIPPABLE.join(map(compress, frames)))
    (folder / "01.jsonl.zst").write_bytes(compress(b"\r\n".join(lines[third:])))
    (folder / "val.jsonl.zst").write_bytes(compress(b"\n".join(evaluation)))


def dirt() -> list[bytes]:
    """Every kind of line that is no clean document."""
    clean = _line("neighbour", "ArXiv")
    return [
        b"",
        b" \t",
        b"{",
        b"[1]",
        b'"text"',
        clean + clean,
        clean + b" x",
        clean[:-5],
        b'{"text":"\xff","meta":{"pile_set_name":"ArXiv"}}',
        b'{"text":"a","x":"\xff","meta":{"pile_set_name":"ArXiv"}}',
        b'{"text":"\x01","meta":{"pile_set_name":"ArXiv"}}',
        b'{"text":"lone \\ud800 surrogate","meta":{"pile_set_name":"ArXiv"}}',
        b'{"text":"lone \\udc00\\ud800","meta":{"pile_set_name":"GitHub"}}',
        b'{"text":"zero \\u0000","meta":{"pile_set_name":"ArXiv"}}',
        b'{"text":"slash \\/","meta":{"pile_set_name":"ArXiv"}}',
        b'{"text":"first","text":"last counts","meta":{"pile_set_name":"ArXiv"}}',
        b'{"meta":{"pile_set_name":"ArXiv"}}',
        b'{"text":null,"meta":{"pile_set_name":"ArXiv"}}',
        b'{"text":7,"meta":{"pile_set_name":"ArXiv"}}',
        b'{"text":["a"],"meta":{"pile_set_name":"ArXiv"}}',
        b'{"text":"no meta"}',
        b'{"text":"null meta","meta":null}',
        b'{"text":"meta is a list","meta":["ArXiv"]}',
        b'{"text":"label is a number","meta":{"pile_set_name":1}}',
        _line("unknown label", "Arxiv"),
        _line("", "ArXiv"),
        _line("long " * 400_000, "FreeLaw"),
        b'{"x":' + b"[" * 5000 + b"]" * 5000 + b',"text":"deep","meta":{"pile_set_name":"ArXiv"}}',
    ]


class Oracle:
    """What must come of the planted corpus."""

    def __init__(self, folder: Path, *, holdout_fraction: float = 0.01, seed: int = 0) -> None:
        self.seed = seed
        self.documents = {}
        self.rejects = {}
        self.num_blank, self.num_without_text = {}, {}
        for shard in ("00", "01", "val"):
            self._read(shard, (folder / f"{shard}.jsonl.zst").read_bytes())
        self.roles = {"test": {}, "validation": {}, "train": {}}
        seen = set()
        chosen = []
        for shard in ("val", "00", "01"):
            for key in KEYS:
                for text in self.documents[shard].get(key, []):
                    share = self._salted(text, "holdout") / 2**64
                    role = "validation" if shard == "val" else "train"
                    if shard != "val" and share < holdout_fraction:
                        role = "test"
                    chosen.append((role, text, key))
        for role in ("test", "validation", "train"):
            for found, text, key in chosen:
                if found == role and text not in seen:
                    seen.add(text)
                    self.roles[role][text] = key

    def dataset(self, domain: str) -> dict[str, set[str]]:
        """Return the texts of each split of one domain's dataset."""
        splits = {}
        for role, texts in self.roles.items():
            own = {t for t, key in texts.items() if key == domain}
            others = [t for t, key in texts.items() if key != domain]
            others.sort(key=lambda t: self._salted(t, f"general:{self.seed}:{domain}:{role}"))
            general = set(others[: len(own)])
            if role == "train":
                splits["train"] = own | general
            else:
                splits |= {f"{role}_domain": own, f"{role}_pile": general}
        return splits

    def _read(self, shard, compressed):
        reader = zstandard.ZstdDecompressor().stream_reader(compressed, read_across_frames=True)
        found, rejects, blank, without_text = {}, [], 0, 0
        lines = reader.read().split(b"\n")
        if not lines[-1]:
            lines.pop()
        for number, line in enumerate(lines, 1):
            if not line.strip(b" \t\r"):
                blank += 1
                continue
            try:
                document = json.loads(line.decode())
                label = document["meta"]["pile_set_name"]
                text = document["text"]
                key = LABELS[label]
                assert isinstance(text, str)
            except (ValueError, TypeError, KeyError, AssertionError, RecursionError):
                rejects.append((number, line))
                continue
            if not text.strip():
                without_text += 1
                continue
            # A lone surrogate cannot be encoded; U+FFFD stands in its place.
            whole = "".join("\ufffd" if 0xD800 <= ord(c) < 0xE000 else c for c in text)
            found.setdefault(key, []).append(whole)
        self.documents[shard], self.rejects[shard] = found, rejects
        self.num_blank[shard], self.num_without_text[shard] = blank, without_text

    @staticmethod
    def _salted(text, salt):
        digest = xxhash.xxh3_128_intdigest(text.encode())
        high, low = digest >> 64, digest & _MASK
        value = ((high ^ xxhash.xxh3_64_intdigest(salt.encode())) & _MASK) + (
            0x9E3779B97F4A7C15 * (low | 1)
        )
        value &= _MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        return value ^ (value >> 31)
