"""The pass over a shard, against ``zstd -dc`` of the same file in the same run.

The shard is generated: 22 domains, words as frequent as in a language (Zipf), the Pile's spread of
document lengths, 1 GB of JSON lines, compressed by the zstd program. Polars and DuckDB split it by
domain into Parquet too; they give no document ids and stop at a bad line.
"""

import contextlib
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
from mdel_assets.experiment.pile_domains import PILE_DOMAINS

_SIZE_BYTES = 1_000_000_000
_ROUNDS = 3

_MEASURE = """
import os, subprocess, sys, time
started = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(time.monotonic() - started, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)
sys.exit(status != 0)
"""
_OURS = """
import sys
from pathlib import Path
from mdel_assets.experiment.pile_domains import PILE_DOMAINS
from mdel_assets.data.shard_pass import route_documents
from mdel_assets.experiment.fields import Source
route_documents(Path(sys.argv[1]), Path(sys.argv[2]), domains=PILE_DOMAINS,
                source=Source(train=(sys.argv[1],), max_reject_rate=0.0))
"""
_POLARS = """
import sys
import polars as pl
frame = pl.scan_ndjson(sys.argv[1]).with_columns(
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
    """Print wall time as a ratio to ``zstd -dc``, memory, processor time, and how both scale."""
    with tempfile.TemporaryDirectory() as folder:
        shard = _generate(Path(folder) / "shard.jsonl.zst")
        peers = {"polars": _POLARS, "duckdb": _DUCKDB}
        installed = {name: code for name, code in peers.items() if importlib.util.find_spec(name)}
        found: dict[str, list[tuple[float, float, float]]] = {}
        # In turns, so that a slow moment of the machine falls on all alike.
        for _ in range(_ROUNDS):
            decompress = ["sh", "-c", f"zstd -dcq {shard} > /dev/null"]
            found.setdefault("zstd", []).append(_run(decompress))
            for name, code in {"ours": _OURS, **installed}.items():
                with tempfile.TemporaryDirectory(dir=folder) as out:
                    command = [sys.executable, "-c", code, str(shard), out]
                    found.setdefault(name, []).append(_run(command))
        zstd = min(found["zstd"])[0]
        show("shard_pass/zstd", zstd, "s")
        for name in ("ours", *installed):
            wall, peak, cpu = min(found[name])
            show(f"shard_pass/{name}/wall", wall / zstd, "ratio", peer="zstd -dc")
            show(f"shard_pass/{name}/peak_memory", peak, "MiB")
            show(f"shard_pass/{name}/processor_time", cpu, "s")
        for name in installed:
            speed = min(found[name])[0] / min(found["ours"])[0]
            show("shard_pass/speed", speed, "ratio", peer=name)
        _show_scaling(shard, Path(folder), peak=min(found["ours"])[1])


def _show_scaling(shard: Path, folder: Path, *, peak: float) -> None:
    """Print the efficiency of a process per core, and the memory for ten times the shard."""
    cores = sorted(os.sched_getaffinity(0))[:8]
    times = [
        (_run_pinned(shard, folder, cores[:1]), _run_pinned(shard, folder, cores))
        for _ in range(_ROUNDS)
    ]
    alone, together = (min(column) for column in zip(*times, strict=True))
    show(f"shard_pass/{len(cores)}_processes/efficiency", alone / together, "ratio", peer="1")
    large = folder / "large.jsonl.zst"
    with large.open("wb") as file:
        for _ in range(10):
            file.write(shard.read_bytes())
    with tempfile.TemporaryDirectory(dir=folder) as out:
        _, large_peak, _ = _run([sys.executable, "-c", _OURS, str(large), out])
    show("shard_pass/ten_times_the_shard/peak_memory", large_peak / peak, "ratio", peer="once")


def _run_pinned(shard: Path, folder: Path, cores: list[int]) -> float:
    """Return wall seconds until a pass pinned to each core has ended."""
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        processes = []
        for core in cores:
            out = stack.enter_context(tempfile.TemporaryDirectory(dir=folder))
            command = ["taskset", "-c", str(core), sys.executable, "-c", _OURS, str(shard), out]
            processes.append(subprocess.Popen(command))
        if any(process.wait() for process in processes):
            raise RuntimeError("a pass failed")
        return time.monotonic() - started


def _generate(path: Path) -> Path:
    draw = random.Random(0)
    alphabet = "etaoinshrdlucmfwypvbgk"
    words = ["".join(draw.choices(alphabet, k=draw.randint(2, 11))) for _ in range(20_000)]
    frequencies = [1.0 / (rank + 2.7) for rank in range(len(words))]
    pages = [" ".join(draw.choices(words, frequencies, k=4000)) for _ in range(2000)]
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
    """Return wall seconds, peak MiB and processor seconds of a command and its children.

    A small process starts the command, because a new process inherits the peak of the one that
    started it.
    """
    launcher = [sys.executable, "-c", _MEASURE, *command]
    output = subprocess.run(launcher, check=True, stdout=subprocess.PIPE, text=True).stdout
    wall, peak, cpu = map(float, output.split()[-3:])
    return wall, peak, cpu


if __name__ == "__main__":
    main()
