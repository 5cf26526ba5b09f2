"""Tiny corpora and tiny models that tests share."""

import dataclasses
import json
import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard

from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.fields import ExpertTraining
from mdel_assets.experiment.loading import parse_experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.making import make_all, make_one
from mdel_assets.scoring.score_together import ScoringTask
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.digests import file_digest
from mdel_assets.store.records import Record
from mdel_assets_tests.made_once import made_once
from mdel_assets_tests.s3_server import FaultyProxy, S3Server

# Read when huggingface_hub is imported: large files go by LFS, which test servers speak, and
# nothing is told to the Hub.
os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

# Else the runs of all tests were kept there.
os.environ.pop("DAGSTER_HOME", None)

# A shell that puts the tests in the background leaves SIGINT ignored, and what they start inherits
# that: Dagster's code server, which takes its answer to SIGTERM from SIGINT's, would never end.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The first three begin together, so none of them waits for what another one makes for both.
LONGEST_FIRST = (
    "test_slurm.py",
    "test_kills.py",
    "test_services.py",
    "test_operation.py",
    "test_web_ui.py",
    "test_ray.py",
    "test_compute.py",
    "test_limits.py",
    "test_interruptions.py",
    "test_map.py",
    "test_consuming.py",
    "test_task_reports.py",
    "test_ctrl_c.py",
    "test_real_model.py",
    "test_line_of_tasks.py",
    "test_line_mixtures.py",
    "test_full_disk.py",
    "test_faults.py",
)

WORDS = {
    "Github": ["def", "return", "import", "class", "self", "if", "else", "for", "range", "None"],
    "ArXiv": ["theorem", "proof", "lemma", "let", "epsilon", "delta", "converges", "bounded"],
    "FreeLaw": ["court", "appeal", "plaintiff", "defendant", "motion", "denied", "statute"],
}
KEY_OF = {"Github": "github", "ArXiv": "arxiv", "FreeLaw": "freelaw"}


def make_document(label: str, number: int, *, num_words: int = 40) -> dict[str, Any]:
    """Return one document of the domain ``label``, another for every ``number``."""
    draw = random.Random(f"{label}{number}")
    words = " ".join(draw.choice(WORDS[label]) for _ in range(num_words))
    return {"text": f"{words} {number}", "meta": {"pile_set_name": label}}


def make_documents(num_per_domain: Mapping[str, int], *, first: int = 0) -> list[dict[str, Any]]:
    """Return documents of several domains, interleaved in a fixed random order."""
    found = [
        make_document(label, first + i)
        for label, count in num_per_domain.items()
        for i in range(count)
    ]
    random.Random(0).shuffle(found)
    return found


def write_shard(path: Path, lines: Iterable[dict[str, Any] | bytes]) -> Path:
    """Write documents, or raw lines, as zstd-compressed JSON lines."""
    content = b"".join(
        (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
    )
    compress(content, path)
    return path


def compress(content: bytes, path: Path) -> None:
    """Write ``content`` as one zstd frame, with another library than the code under test."""
    path.write_bytes(zstandard.compress(content))


def decompress(path: Path) -> bytes:
    """Return what a zstd file holds, read with another library than the code under test."""
    return zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())


def flip_bit(path: Path, *, place: int | None = None, bit: int = 0) -> None:
    """Flip one bit of a file, of its middle byte where ``place`` names no other."""
    with path.open("r+b") as file:
        place = path.stat().st_size // 2 if place is None else place
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def forge(artifact: Artifact, **changes: Any) -> None:
    """Let a record hold ``changes``, and digests of the files as they are, as if made like that."""
    record = Record.parse(artifact.record_path.read_text())
    files = {}
    for name in record.files:
        path = artifact.folder / name
        files[name] = {"size_bytes": path.stat().st_size, "xxh3": file_digest(path)}
    forged = dataclasses.replace(record, **{"files": files, **changes}).sealed()
    artifact.record_path.unlink()
    artifact.record_path.write_text(forged.text())


def write_split(path: Path, texts: list[str], *, domain: str) -> None:
    """Write a split of a domain's dataset that holds ``texts``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mdel_assets.data.document_writer import document_id
    from mdel_assets.data.split_sinks import DATASET_SCHEMA

    encoded = [text.encode() for text in texts]
    columns = [
        pa.array(texts, pa.string()),
        pa.array(map(document_id, encoded), pa.string()),
        pa.array(map(len, encoded), pa.int64()),
        pa.array([domain] * len(texts), pa.string()),
    ]
    pq.write_table(pa.Table.from_arrays(columns, schema=DATASET_SCHEMA), path)


PICO: dict[str, Any] = {
    "name": "pico",
    "source": {"train": [], "validation": "", "test": ""},
    "domains": [
        {"key": "github", "name": "Github"},
        {"key": "arxiv", "name": "ArXiv"},
        {"key": "freelaw", "name": "FreeLaw"},
        {"key": "enron", "name": "Enron Emails"},
    ],
    "seed_model": {
        "pretrain": {
            "model": {
                "model_type": "gpt_neox",
                "hidden_size": 32,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "max_position_embeddings": 64,
            },
            "vocab_size": 320,
            "learning_rate": 3.0e-3,
            "block_size": 32,
            "batch_size": 4,
            "num_tokens": 2048,
        }
    },
    "training": {
        "trained_layers": [1, 2],
        "learning_rate": 3.0e-3,
        "block_size": 32,
        "batch_size": 4,
        "num_tokens": 2048,
        "num_validation_blocks": 4,
    },
    "baselines": {"random_split": True},
    "merges": {
        "mean-all": {"merge_method": "linear", "models": [{"model": "expert:*"}]},
        "pair": {
            "merge_method": "linear",
            "models": [
                {"model": "expert:github", "parameters": {"weight": 3.0}},
                {"model": "seed"},
            ],
        },
        "random": {"merge_method": "linear", "models": [{"model": "random:*"}]},
    },
    "evaluation": {
        "max_length": 32,
        "num_bootstrap_samples": 100,
        "sample_texts": {"prompt_characters": 60, "max_new_tokens": 8},
    },
}


def pico_experiment(corpus: Path, **changes: Any) -> Experiment:
    """Return the pico experiment on the shards in ``corpus``, with top-level keys replaced."""
    content = json.loads(json.dumps(PICO)) | changes
    content["source"] = {
        "train": [str(corpus / "00.jsonl.zst"), str(corpus / "01.jsonl.zst")],
        "validation": str(corpus / "val.jsonl.zst"),
        "test": str(corpus / "test.jsonl.zst"),
    } | (changes.get("source") or {})
    return parse_experiment(yaml.safe_dump(content), origin="pico")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that the last one does not run alone."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two train shards, a validation and a test shard of three domains; Enron is absent."""

    def make(folder: Path) -> None:
        sizes = {"Github": 20, "ArXiv": 12, "FreeLaw": 8}
        write_shard(folder / "00.jsonl.zst", make_documents(sizes))
        write_shard(folder / "01.jsonl.zst", make_documents(sizes, first=100))
        write_shard(folder / "val.jsonl.zst", make_documents(dict.fromkeys(sizes, 6), first=200))
        write_shard(folder / "test.jsonl.zst", make_documents(dict.fromkeys(sizes, 6), first=300))

    return made_once(tmp_path_factory, "corpus", make, copy=False)[0]


# What an expert of `make_model` is trained with.
TRAINING = ExpertTraining(
    trained_layers=(1, 2),
    learning_rate=3e-3,
    block_size=32,
    batch_size=4,
    num_tokens=2048,
    num_validation_blocks=8,
)


def task_of(model: Path, parent: Path, name: str, *, previous: Path | None = None) -> ScoringTask:
    """Return the task of scoring ``model`` into ``parent / name``, with a work folder beside."""
    for folder in (parent / name, parent / f"{name}-work"):
        folder.mkdir(exist_ok=True)
    return ScoringTask(model, parent / name, parent / f"{name}-work", previous)


@pytest.fixture
def home(tmp_path: Path) -> MdelHome:
    """An empty MDEL_HOME."""
    return MdelHome(tmp_path / "home")


@pytest.fixture
def lineage(corpus: Path, home: MdelHome) -> Lineage:
    """The pico experiment over an empty home."""
    return home.lineage(pico_experiment(corpus))


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server with an empty bucket."""
    server = S3Server()
    yield server
    server.end()


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The door to the S3 server: ``MDEL_STORE`` and what else leads there is in the environment."""
    proxy = FaultyProxy(s3)
    for key, value in proxy.environment.items():
        monkeypatch.setenv(key, value)
    yield proxy
    proxy.end()
    for name in s3.names():
        s3.delete(name)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a tiny random model of a family, with a tokenizer."""

    def make(
        model_type: str = "gpt_neox", *, seed: int = 0, dtype: str = "float32", **changes: Any
    ) -> Path:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        from mdel_assets.training.seed import train_tokenizer

        settings = {
            "vocab_size": 320,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
        torch.manual_seed(seed)
        config = AutoConfig.for_model(model_type, **(settings | changes))
        model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
        # A fresh model gives nearly the same probability to everything: widen its choices.
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(20)
        folder = tmp_path_factory.mktemp(model_type)
        model.save_pretrained(folder)
        texts = [d["text"] for d in make_documents(dict.fromkeys(WORDS, 30))]
        train_tokenizer(texts, vocab_size=320).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """The line, run once to its end: (experiment, home, outcomes of the run)."""
    import dagster as dg

    from mdel_assets.defs.launch import run_line

    experiment = pico_experiment(corpus)

    def make(folder: Path) -> list[Any]:
        with dg.DagsterInstance.ephemeral() as instance:
            return list(run_line(experiment, MdelHome(folder), instance=instance))

    folder, outcomes = made_once(tmp_path_factory, "finished", make)
    return experiment, MdelHome(folder), outcomes


@pytest.fixture(scope="session")
def branched(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, MdelHome]:
    """The line up to the seed model, with no expert yet: (experiment, home)."""
    experiment = pico_experiment(corpus)
    folder, _ = made_once(
        tmp_path_factory, "branched", lambda folder: branch(experiment, MdelHome(folder))
    )
    return experiment, MdelHome(folder)


def branch(experiment: Experiment, home: MdelHome) -> None:
    """Make all that comes before the experts."""

    lineage = home.lineage(experiment)
    for shard in experiment.shards():
        make_one(lineage, "raw_pile_shard", shard.key)
        make_one(lineage, "shard_documents", shard.key)
    make_all(lineage, "domain_dataset", experiment.domain_keys)
    make_one(lineage, "seed_model")
