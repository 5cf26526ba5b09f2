"""Models of Pythia-1B's shape: what an expert, a merge and four models' scores take.

The ancestor's settings: layers 9 to 13, batches of 8 blocks of 512 tokens; three steps. Each piece
of work runs in a process of its own, whose time and memory are printed.
"""

import argparse
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bench_line import measured, write_seed
from benchmarks.figures import show
from benchmarks.pile_like import texts
from mdel_assets.data.document_writer import document_id
from mdel_assets.data.split_sinks import DATASET_SCHEMA
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.experiment.fields import ExpertTraining
from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.streaming import merge_models
from mdel_assets.scoring.score_together import ScoringResult, ScoringTask, score_models

RUNS_ONLY_WHEN_NAMED = True
_TRAINED = [9, 10, 11, 12, 13]
_WORKS = [
    *(
        f"expert-{store}-{dtype}"
        for store in ("full", "delta")
        for dtype in ("float32", "bfloat16")
    ),
    "merge",
    "score",
]


def main(arguments: Sequence[str] = ()) -> None:
    """Print each piece of work's time, memory and written bytes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_billion")
    parser.add_argument("--stored", default="float16", choices=["float16", "float32"])
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", choices=_WORKS)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args(arguments)
    if options.only:
        logging.basicConfig(level=logging.INFO)
        _work(options.only, options.folder, options.micro_batch, options.steps)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        _prepare(folder, options.stored)
        for work in _WORKS:
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_billion"]
            command += ["--only", work, "--folder", str(folder)]
            command += ["--micro-batch", str(options.micro_batch), "--steps", str(options.steps)]
            spent = measured(command, None, log=folder / f"{work}.log")
            show(f"billion/{options.stored}/{work}/wall", spent.elapsed_seconds, "s")
            show(f"billion/{options.stored}/{work}/processor", spent.processor_seconds, "s")
            show(f"billion/{options.stored}/{work}/peak_memory", spent.peak_bytes / 2**30, "GiB")
            show(f"billion/{options.stored}/{work}/written", spent.written_bytes / 2**20, "MiB")
            for line in (folder / f"{work}.log").read_text("utf-8").splitlines():
                if line.startswith('{"name"'):
                    print(line, flush=True)  # noqa: T201


def _prepare(folder: Path, stored: str) -> None:
    """Write the seed model, and one domain's dataset."""
    cache, dataset = folder / "cache", folder / "dataset"
    for each in (cache, dataset):
        each.mkdir(parents=True, exist_ok=True)
    if not (folder / "seed").exists():
        shape = {"width": 2048, "num_layers": 16, "num_heads": 8}
        write_seed(folder / "seed", cache=cache, dtype=stored, **shape)
    for split, count in (("train", 60), ("validation_domain", 8), ("validation_pile", 8)):
        found = texts("arxiv", count=count, length=4000, cache=cache)
        encoded = [text.encode() for text in found]
        columns = [found, map(document_id, encoded), map(len, encoded), ["arxiv"] * count]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, DATASET_SCHEMA, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=DATASET_SCHEMA)
        pq.write_table(table, dataset / f"{split}.parquet")


def _work(work: str, folder: Path, micro_batch: int, num_steps: int) -> None:
    """Do one piece of work; the last line that is printed says how long its core took."""
    if work == "merge":
        _merge(folder)
    elif work == "score":
        _score(folder)
    else:
        _, store, dtype = work.split("-")
        _train(folder, store, dtype, micro_batch, num_steps)


def _train(folder: Path, store: Any, dtype: Any, micro_batch: int, num_steps: int) -> None:
    from mdel_assets.training.expert import train_expert

    training = ExpertTraining(
        trained_layers=tuple(_TRAINED),
        block_size=512,
        batch_size=8,
        micro_batch_size=micro_batch,
        max_steps=num_steps,
        num_validation_blocks=2,
        dtype=dtype,
        store=store,
    )
    out, work = folder / f"expert-{store}-{dtype}", folder / "work"
    for each in (out, work):
        shutil.rmtree(each, ignore_errors=True)
    out.mkdir()
    result = train_expert(
        training,
        seed_folder=folder / "seed",
        dataset_folder=folder / "dataset",
        folder=out,
        work_folder=work,
    )
    assert result is not None
    seconds = result.history.num_tokens / result.history.tokens_per_second
    show(f"billion/expert-{store}-{dtype}/training", seconds, "s")


def _experts(folder: Path) -> list[Path]:
    return sorted(folder.glob("expert-*-*/"))


def _merge(folder: Path) -> None:
    models = [{"model": "expert:*", "parameters": {"weight": 1.0}}]
    recipe = MergeRecipe.model_validate({"merge_method": "linear", "models": models})
    prefixes = tuple(f"gpt_neox.layers.{number}." for number in _TRAINED)
    shutil.rmtree(folder / "merged", ignore_errors=True)
    (folder / "merged").mkdir()
    inputs = [
        MergeInput(path.name, path, parameters={"weight": 1.0}, trained_prefixes=prefixes)
        for path in _experts(folder)
    ]
    started = time.monotonic()
    merge_models(recipe, inputs, folder / "merged", model_folder=folder / "seed")
    show("billion/merge/core", time.monotonic() - started, "s")


def _score(folder: Path) -> None:
    """Score the seed, the merge and two experts."""
    models = [folder / "seed", folder / "merged", *_experts(folder)[:2]]
    tasks = {}
    for model in models:
        for name in ("scores", "score-work"):
            shutil.rmtree(folder / name / model.name, ignore_errors=True)
            (folder / name / model.name).mkdir(parents=True)
        places = folder / "scores" / model.name, folder / "score-work" / model.name
        tasks[model.name] = ScoringTask(model, *places)
    evaluation = Evaluation(max_documents=2, splits=("validation_domain",))
    started = time.monotonic()
    datasets = {"arxiv": folder / "dataset"}
    for name, result in score_models(tasks, datasets=datasets, evaluation=evaluation):
        assert isinstance(result, ScoringResult), (name, result)
    show("billion/score/core", time.monotonic() - started, "s")


if __name__ == "__main__":
    main(sys.argv[1:])
