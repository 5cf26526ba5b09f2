"""``mdel serve`` under eight clients against one, and against ``transformers serve``.

The model has the shape of Pythia-160m with a smaller vocabulary and random weights. Each client
asks for completions one after the other, greedily; requests are the same for all servers, and
tokens are counted as each server counts them. Servers run one after the other, in turns.
`transformers serve` is tried as it is and with its continuous batching.
"""

import contextlib
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

_NUM_CLIENTS, _REQUESTS_EACH, _NUM_TOKENS = 8, 1, 64
# Some 20 tokens.
_NUM_PROMPT_WORDS = 8
_ROUNDS = 2
_SECONDS_TO_START = 300
_PEERS = {"transformers": [], "transformers_batching": ["--continuous-batching"]}


def main() -> None:
    """Print tokens per second of one client and of eight, and the ratios between servers."""
    with tempfile.TemporaryDirectory() as name:
        seed, environment = _prepare(Path(name))
        program = Path(sys.executable).with_name("transformers")
        commands = {"ours": (_mdel("serve", "--port"), [], "seed")}
        for peer, options in _PEERS.items():
            commands[peer] = ([program, "serve", seed, "--port"], options, seed)
        paces: dict[str, list[tuple[float, float]]] = {server: [] for server in commands}
        for _ in range(_ROUNDS):
            for server, (command, options, model) in commands.items():
                with contextlib.suppress(_NoAnswerError):
                    with _serving(command, environment, options) as address:
                        _tokens_per_second(address, model, num_clients=1)
                        alone = _tokens_per_second(address, model, num_clients=1)
                        together = _tokens_per_second(address, model, num_clients=_NUM_CLIENTS)
                    paces[server].append((alone, together))
    _show(paces)


def _show(paces: dict[str, list[tuple[float, float]]]) -> None:
    alone, together = np.median(paces["ours"], axis=0)
    show("serving/one_client", alone, "tokens/s")
    show("serving/eight_clients", together / alone, "ratio", peer="one client")
    for peer, options in _PEERS.items():
        words = " ".join(["transformers serve", *options])
        show(f"serving/{peer}/runs", len(paces[peer]), "runs that were answered", peer=words)
        if paces[peer]:
            theirs = np.median(paces[peer], axis=0)
            show(f"serving/{peer}/one_client", alone / theirs[0], "ratio", peer=words)
            show(f"serving/{peer}/eight_clients", together / theirs[1], "ratio", peer=words)


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


@contextlib.contextmanager
def _serving(command: list[Any], environment: dict[str, str], options: list[str]) -> Iterator[str]:
    """Run a server; its address."""
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
        yield address
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


def _tokens_per_second(address: str, model: str, *, num_clients: int) -> float:
    """Return what all clients together were written in a second."""
    with ThreadPoolExecutor(num_clients) as pool:
        started = time.monotonic()
        counts = list(pool.map(lambda number: _ask(address, model, number), range(num_clients)))
        return sum(counts) / (time.monotonic() - started)


def _ask(address: str, model: str, number: int) -> int:
    """Ask as one client; return how many tokens were written."""
    draw = np.random.default_rng(number)
    count = 0
    with httpx.Client(base_url=address, timeout=300) as client:
        for _ in range(_REQUESTS_EACH):
            prompt = " ".join(
                "".join(draw.choice(list("abcdefghijklmnop"), 6)) for _ in range(_NUM_PROMPT_WORDS)
            )
            asked = {"prompt": prompt, "max_tokens": _NUM_TOKENS, "temperature": 0}
            try:
                answer = client.post("/v1/completions", json={"model": model} | asked)
                answer.raise_for_status()
            except httpx.HTTPError as error:
                raise _NoAnswerError from error
            count += answer.json()["usage"]["completion_tokens"]
    return count


if __name__ == "__main__":
    main()
