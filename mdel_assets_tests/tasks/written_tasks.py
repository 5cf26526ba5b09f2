"""Two local tasks of 200 items, the same ones every time: multiple choice, and a last word.

The `perplexity` of the second is the mean of log-likelihoods, so that its error has a formula.
"""

import json
import random
from pathlib import Path

WORDS = ["court", "appeal", "plaintiff", "def", "return", "import", "class", "theorem", "proof"]
CHOICE, LAST_WORD = "own_choice", "own_last_word"
NUM_ITEMS = 200

_CHOICE = """\
task: own_choice
dataset_path: json
dataset_kwargs: {data_files: {test: data/choice.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""
_LAST_WORD = """\
task: own_last_word
tag: own
include: common
dataset_kwargs: {data_files: {test: data/last_word.jsonl}}
output_type: loglikelihood
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{text.split(' ')[-1]}}"
metadata: {version: 2.0}
"""
_COMMON = """\
dataset_path: json
test_split: test
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: perplexity, aggregation: mean, higher_is_better: true}
"""


def write_tasks(folder: Path) -> Path:
    """Write both tasks and their data into ``folder``; return it."""
    data = folder / "data"
    data.mkdir(parents=True)
    draw = random.Random(7)
    choices, texts = [], []
    for _ in range(NUM_ITEMS):
        words = [draw.choice(WORDS) for _ in range(6)]
        offered = draw.sample(WORDS, 4)
        question = {"question": " ".join(words), "choices": offered, "answer": draw.randrange(4)}
        choices.append(question)
        texts.append({"text": " ".join(words)})
    for name, items in (("choice", choices), ("last_word", texts)):
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (data / f"{name}.jsonl").write_text(lines)
    (folder / "choice.yaml").write_text(_CHOICE)
    (folder / "last_word.yaml").write_text(_LAST_WORD)
    (folder / "common").write_text(_COMMON)
    return folder
