"""The sample corpus, where the package index cannot be reached."""

import json

import pytest

from mdel_assets.data.sample_corpus import SAMPLE_DOMAINS, SHARD_NAMES, sample_shard
from mdel_assets.data.sample_texts import mathematics_exercises
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


def test_generated_answers_are_right():
    checked = 0
    for sheet in mathematics_exercises():
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
