"""The pass over a shard, against ``zstd -dc`` of the same file in the same run.

The shard is generated: 22 domains, text of random words with the Pile's spread of lengths, 0.5 GB
of JSON lines, compressed by the zstd program. Polars and DuckDB run too where they are installed.
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import show
from mdel_assets.data.pile_domains import PILE_DOMAINS

_SIZE_BYTES = 500_000_000
_ROUNDS = 3

_OURS = """
import sys
from pathlib import Path
from mdel_assets.data.pile_domains import PILE_DOMAINS
from mdel_assets.data.shard_pass import route_documents
from mdel_assets.experiment_fields import Source
route_documents(Path(sys.argv[1]), Path(sys.argv[2]), domains=PILE_DOMAINS,
                source=Source(train=(sys.argv[1],), max_reject_rate=0.0))
"""
_POLARS = """
import subprocess, sys
import polars as pl
subprocess.run(["zstd", "-dqf", sys.argv[1], "-o", sys.argv[2] + "/plain.jsonl"], check=True)
frame = pl.scan_ndjson(sys.argv[2] + "/plain.jsonl").with_columns(
    pl.col("meta").struct.field("pile_set_name").alias("domain")).select("text", "domain").collect()
for (name,), part in frame.partition_by("domain", as_dict=True).items():
    part.write_parquet(f"{sys.argv[2]}/{name}.parquet", compression="zstd", compression_level=1)
"""
_DUCKDB = """
import sys
import duckdb
duckdb.sql(f\"\"\"copy (select text, meta.pile_set_name as domain from read_json('{sys.argv[1]}',
    format='newline_delimited', compression='zstd', maximum_object_size=100000000,
    columns={{text: 'varchar', meta: 'struct(pile_set_name varchar)'}}))
    to '{sys.argv[2]}' (format parquet, partition_by domain, compression zstd,
    overwrite_or_ignore true)\"\"\")
"""


def main() -> None:
    """Print wall time as a ratio to ``zstd -dc``, peak memory and processor time."""
    with tempfile.TemporaryDirectory() as folder:
        shard = _generate(Path(folder) / "shard.jsonl.zst")
        peers = {"polars": _POLARS, "duckdb": _DUCKDB}
        installed = {name: code for name, code in peers.items() if importlib.util.find_spec(name)}
        programs = {"ours": _OURS} | installed
        zstd = min(_run(["sh", "-c", f"zstd -dcq {shard} > /dev/null"])[0] for _ in range(_ROUNDS))
        show("shard_pass/zstd", zstd, "s")
        best: dict[str, float] = {}
        for name, code in programs.items():
            found = []
            for _ in range(_ROUNDS):
                with tempfile.TemporaryDirectory(dir=folder) as out:
                    found.append(_run([sys.executable, "-c", code, str(shard), out]))
            wall, peak, cpu = min(found)
            best[name] = wall
            show(f"shard_pass/{name}/wall", wall / zstd, "ratio", peer="zstd -dc")
            show(f"shard_pass/{name}/peak_memory", peak, "MiB")
            show(f"shard_pass/{name}/processor_time", cpu, "s")
        for name in set(best) - {"ours"}:
            show("shard_pass/speed", best[name] / best["ours"], "ratio", peer=name)


def _generate(path: Path) -> Path:
    draw = random.Random(0)
    alphabet = "etaoinshrdlucmfwypvbgk"
    words = ["".join(draw.choices(alphabet, k=draw.randint(2, 11))) for _ in range(20_000)]
    pages = [" ".join(draw.choices(words, k=4000)) for _ in range(400)]
    names = [domain.name for domain in PILE_DOMAINS]
    weights = [1.0 / (rank + 1) for rank in range(len(names))]
    with subprocess.Popen(["zstd", "-q", "-3", "-o", str(path)], stdin=subprocess.PIPE) as process:
        assert process.stdin
        size = 0
        while size < _SIZE_BYTES:
            length = int(min(200_000, draw.lognormvariate(7.6, 1.3)) + 20)
            page = "\n".join(draw.choices(pages, k=length // 20_000 + 1))
            start = draw.randrange(max(1, len(page) - length))
            label = draw.choices(names, weights)[0]
            document = {"text": page[start : start + length], "meta": {"pile_set_name": label}}
            line = json.dumps(document).encode() + b"\n"
            process.stdin.write(line)
            size += len(line)
    return path


def _run(command: list[str]) -> tuple[float, float, float]:
    """Return wall seconds, peak MiB and processor seconds of a command and its children."""
    started = time.monotonic()
    with subprocess.Popen(command) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    wall = time.monotonic() - started
    if status:
        raise RuntimeError(f"{command[:2]} failed")
    return wall, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
