"""``mdel serve`` under eight clients against one, and against ``transformers serve``.

The model has the shape of Pythia-160m with a smaller vocabulary and random weights. Each client
asks for completions one after the other, greedily, with short prompts and with longer ones;
requests are the same for all servers, and tokens are counted as each server counts them. Servers
run one after the other, in turns. `transformers serve` is tried as it is and with its continuous
batching. Ratios are told by the clock and by the servers' processor time, which other work on the
machine disturbs less.
"""

import collections
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import yaml

from benchmarks.figures import show
from benchmarks.models import gpt_neox

_NUM_CLIENTS, _REQUESTS_EACH = 8, 2
_ROUNDS = 2
_SECONDS_TO_START = 300
_PEERS = {"transformers": [], "transformers_batching": ["--continuous-batching"]}


@dataclasses.dataclass(frozen=True)
class _Load:
    """What each client asks for; a word is some 2.5 tokens."""

    num_prompt_words: int
    num_tokens: int


_LOADS = {"20_read_64_written": _Load(8, 64), "50_read_32_written": _Load(20, 32)}


@dataclasses.dataclass(frozen=True)
class _Pace:
    """Tokens written in a second, by the clock and of the server's processor time."""

    on_the_clock: float
    of_processor: float


def main() -> None:
    """Print tokens per second of one client and of eight, and the ratios between servers."""
    with tempfile.TemporaryDirectory() as name:
        seed, environment = _prepare(Path(name))
        program = Path(sys.executable).with_name("transformers")
        commands = {"ours": (_mdel("serve", "--port"), [], "seed")}
        for peer, options in _PEERS.items():
            commands[peer] = ([program, "serve", seed, "--port"], options, seed)
        # By load and server, one client and eight in each round.
        paces: dict[tuple[str, str], list[tuple[_Pace, _Pace]]] = collections.defaultdict(list)
        for _ in range(_ROUNDS):
            for server, (command, options, model) in commands.items():
                with (
                    contextlib.suppress(_NoAnswerError),
                    _serving(command, environment, options) as running,
                ):
                    for name, load in _LOADS.items():
                        running.pace(model, load, num_clients=1)
                        alone = running.pace(model, load, num_clients=1)
                        together = running.pace(model, load, num_clients=_NUM_CLIENTS)
                        paces[name, server].append((alone, together))
    for name in _LOADS:
        _show(f"serving/{name}", {server: paces[name, server] for server in commands})


def _show(name: str, paces: dict[str, list[tuple[_Pace, _Pace]]]) -> None:
    for kind in ("on_the_clock", "of_processor"):
        found = {
            server: np.median([[getattr(pace, kind) for pace in both] for both in rounds], axis=0)
            for server, rounds in paces.items()
            if rounds
        }
        alone, together = found.pop("ours")
        show(f"{name}/{kind}/one_client", alone, "tokens/s")
        show(f"{name}/{kind}/eight_clients", together / alone, "ratio", peer="one client")
        for server, theirs in found.items():
            peer = _peer(server)
            show(f"{name}/{kind}/{server}/one_client", alone / theirs[0], "ratio", peer=peer)
            show(f"{name}/{kind}/{server}/eight_clients", together / theirs[1], "ratio", peer=peer)
            ratio = theirs[1] / theirs[0]
            show(f"{name}/{kind}/{server}/own_eight", ratio, "ratio", peer=f"{peer}, one client")
    for server in _PEERS:
        peer = _peer(server)
        show(f"{name}/{server}/runs", len(paces[server]), "runs that were answered", peer=peer)


def _peer(server: str) -> str:
    return " ".join(["transformers serve", *_PEERS[server]])


class _NoAnswerError(Exception):
    """A server that does not start, or does not answer."""


def _prepare(folder: Path) -> tuple[str, dict[str, str]]:
    """Return a model's folder, and the environment in which it is an experiment's seed model."""
    from mdel_assets.training.seed import train_tokenizer

    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("abcdefghijklmnop"), 6)) for _ in range(8000)]
    texts = {d: [" ".join(draw.choice(words, 60)) for _ in range(200)] for d in ("one", "two")}
    tokenizer = train_tokenizer([t for both in texts.values() for t in both], vocab_size=8192)
    model = gpt_neox(width=768, num_layers=12, num_heads=12, vocab_size=len(tokenizer))
    model.save_pretrained(folder / "seed")
    tokenizer.save_pretrained(folder / "seed")
    rows = [{"text": t, "meta": {"pile_set_name": d}} for d, found in texts.items() for t in found]
    (folder / "00.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    experiment = {
        "name": "serving",
        "source": {"layout": "pile", "train": [str(folder / "00.jsonl")]},
        "domains": [{"key": "one", "name": "one"}, {"key": "two", "name": "two"}],
        "seed_model": {"path": str(folder / "seed")},
        "training": {"trained_layers": [11], "block_size": 64, "num_tokens": 1024},
    }
    (folder / "serving.yaml").write_text(yaml.safe_dump(experiment))
    environment = os.environ | {
        "MDEL_HOME": str(folder / "home"),
        "MDEL_EXPERIMENT": str(folder / "serving.yaml"),
        "HF_HUB_OFFLINE": "1",
    }
    subprocess.run(
        _mdel("run", "--until", "seed_model"), env=environment, check=True, capture_output=True
    )
    return str(folder / "seed"), environment


def _mdel(*words: str) -> list[Any]:
    code = "from mdel_assets.cli.main import main; main(prog_name='mdel')"
    return [sys.executable, "-W", "ignore", "-c", code, *words]


@dataclasses.dataclass(frozen=True)
class _Running:
    """A server that answers at ``address``."""

    address: str
    process: psutil.Process

    def pace(self, model: str, load: _Load, *, num_clients: int) -> _Pace:
        """Return what all clients together were written."""
        with ThreadPoolExecutor(num_clients) as pool:
            before, started = self._processor_seconds(), time.monotonic()
            asked = [(self.address, model, load, number) for number in range(num_clients)]
            count = sum(pool.map(lambda each: _ask(*each), asked))
            seconds = time.monotonic() - started
            return _Pace(count / seconds, count / (self._processor_seconds() - before))

    def _processor_seconds(self) -> float:
        times = [p.cpu_times() for p in (self.process, *self.process.children(recursive=True))]
        return sum(each.user + each.system for each in times)


@contextlib.contextmanager
def _serving(
    command: list[Any], environment: dict[str, str], options: list[str]
) -> Iterator[_Running]:
    """Run a server."""
    port = _free_port()
    process = subprocess.Popen(
        [*map(str, command), str(port), *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, address)
        yield _Running(address, psutil.Process(process.pid))
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.wait()


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as place:
        return int(place.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    end = time.monotonic() + _SECONDS_TO_START
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.5)
    raise _NoAnswerError


def _ask(address: str, model: str, load: _Load, number: int) -> int:
    """Ask as one client; return how many tokens were written."""
    draw = np.random.default_rng(number)
    count = 0
    with httpx.Client(base_url=address, timeout=300) as client:
        for _ in range(_REQUESTS_EACH):
            prompt = " ".join(
                "".join(draw.choice(list("abcdefghijklmnop"), 6))
                for _ in range(load.num_prompt_words)
            )
            asked = {"prompt": prompt, "max_tokens": load.num_tokens, "temperature": 0}
            try:
                answer = client.post("/v1/completions", json={"model": model} | asked)
                answer.raise_for_status()
            except httpx.HTTPError as error:
                raise _NoAnswerError from error
            count += answer.json()["usage"]["completion_tokens"]
    return count


if __name__ == "__main__":
    main()
