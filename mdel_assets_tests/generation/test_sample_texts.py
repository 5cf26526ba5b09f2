"""Sample texts: what is continued, what models write, what their true text costs, how it shows."""

import itertools
import json
import math
import shutil

import pytest
import torch
from markdown_it import MarkdownIt

from mdel_assets.defs.sample_texts import _page
from mdel_assets.experiment.evaluation import SampleTexts
from mdel_assets.experiment.model_keys import POSTERIOR
from mdel_assets.generation import samples
from mdel_assets.generation.beginnings import Beginning, draw_beginnings
from mdel_assets.generation.samples import Sample, sample_texts
from mdel_assets.generation.samples import _continue_together as together
from mdel_assets.generation.samples_markdown import samples_markdown
from mdel_assets.generation.steps import read_samples, side_by_side
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make
from mdel_assets.training.model_files import load_model, load_tokenizer
from mdel_assets_tests.conftest import flip_bit, forge, write_split
from mdel_assets_tests.generation.speaking import speaker_of
from mdel_assets_tests.generation.test_decoding import by_transformers

DRAWN = {"num_characters": 20, "num_following": 12, "seed": 3}
LONG = [f"number {i} begins here and goes on for long enough" for i in range(9)]


@pytest.fixture
def dataset(tmp_path):
    """A folder whose held-out documents are nine long ones and a short one."""
    write_split(tmp_path / "validation_domain.parquet", ["tiny text", *LONG], domain="github")
    return tmp_path


def test_prompts_are_beginnings_that_end_between_words(dataset):
    drawn = draw_beginnings(dataset, "github", count=9, **DRAWN)
    assert sorted(each.prompt + each.reference for each in drawn) == [
        f"number {i} begins here and goes on" for i in range(9)
    ]
    assert {each.prompt for each in drawn} == {f"number {i} begins here" for i in range(9)}
    assert {each.reference for each in drawn} == {" and goes on"}


def test_few_documents_are_drawn_by_the_seed_and_long_ones_first(dataset):
    def prompts(seed):
        drawn = draw_beginnings(dataset, "github", count=3, **DRAWN | {"seed": seed})
        return [each.prompt for each in drawn]

    assert prompts(1) == prompts(1)
    assert len({tuple(prompts(seed)) for seed in range(5)}) > 1
    (last,) = {each.prompt for each in draw_beginnings(dataset, "github", count=10, **DRAWN)} - {
        f"number {i} begins here" for i in range(9)
    }
    assert last == "tiny"


def test_text_without_spaces_and_without_documents(tmp_path):
    write_split(tmp_path / "validation_domain.parquet", ["漢字" * 20], domain="github")
    (drawn,) = draw_beginnings(tmp_path, "github", count=2, **DRAWN)
    assert (drawn.prompt, drawn.reference) == ("漢字" * 10, "漢字" * 6)
    write_split(tmp_path / "validation_domain.parquet", [], domain="github")
    assert draw_beginnings(tmp_path, "github", count=2, **DRAWN) == []


BEGINNINGS = [
    Beginning("github", "a", "def return import", " class self"),
    Beginning("github", "b", "None", " range if 漢字"),
    # A token lies across the cut.
    Beginning("arxiv", "c", "conver", "ges to delta"),
    Beginning("arxiv", "d", "lemma", ""),
]


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_at_temperature_0_each_is_continued_as_by_transformers(family, make_model):
    folder = make_model(family)
    speaker, settings = speaker_of(folder), SampleTexts(temperature=0.0, max_new_tokens=20)
    samples = sample_texts(speaker, BEGINNINGS, settings=settings, seed=0)
    assert {sample.num_tokens for sample in samples} & set(range(1, 21))
    for sample in samples:
        prompt = speaker.encode(sample.prompt)
        tokens = by_transformers(folder, prompt, num_tokens=20)
        both, before = (speaker.tokenizer.decode(ids) for ids in (prompt + tokens, prompt))
        assert before + sample.continuation == both
        assert sample.num_tokens == len(tokens)


def test_the_true_text_costs_what_the_model_says_of_its_tokens(make_model):
    folder = make_model()
    model, tokenizer = load_model(folder, dtype="float32"), load_tokenizer(folder)
    samples = sample_texts(speaker_of(folder), BEGINNINGS, settings=SampleTexts(), seed=0)
    for sample in samples[:3]:
        prompt, rest = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (sample.prompt, sample.reference)
        )
        whole = tokenizer(sample.prompt + sample.reference)["input_ids"]
        following = whole[len(prompt) :] if whole[: len(prompt)] == prompt else rest
        ids = torch.tensor([[0, *prompt, *following]])
        with torch.inference_mode():
            log_p_TV = model(input_ids=ids).logits[0].double().log_softmax(dim=-1)
        first = 1 + len(prompt)
        nats = -sum(float(log_p_TV[t - 1, ids[0, t]]) for t in range(first, ids.shape[1]))
        bits = nats / math.log(2) / len(sample.reference.encode())
        assert sample.bits_per_byte == pytest.approx(bits, rel=1e-5)
    assert samples[3].bits_per_byte is None


def test_texts_in_parts_for_want_of_memory_are_the_same(make_model, monkeypatch):
    speaker = speaker_of(make_model())
    settings = SampleTexts(max_new_tokens=12)
    whole = sample_texts(speaker, BEGINNINGS, settings=settings, seed=0)
    longest = max(len(speaker.encode(each.prompt)) for each in BEGINNINGS)
    room = 2 * (longest + 12) * speaker.cache_bytes_per_token
    monkeypatch.setattr(samples, "_CACHE_BYTES", room)
    begun = []
    monkeypatch.setattr(
        samples, "_continue_together", lambda *given: begun.append(given) or together(*given)
    )
    parts = sample_texts(speaker, BEGINNINGS, settings=settings, seed=0)
    assert [len(prompts) for _, prompts, *_ in begun] == [2, 2]
    for one, other in zip(whole, parts, strict=True):
        assert one.continuation == other.continuation
    bits = [[each.bits_per_byte for each in found[:3]] for found in (whole, parts)]
    assert bits[0] == pytest.approx(bits[1], rel=1e-6)


def test_a_small_context_reads_the_end_of_a_prompt(make_model):
    speaker = speaker_of(make_model("gpt_neox", max_position_embeddings=24))
    long = Beginning("github", "a", "def return " * 30, " class self")
    end = speaker.tokenizer.decode(speaker.encode(long.prompt)[-14:])
    shorter = Beginning("github", "a", end, "")
    settings = SampleTexts(temperature=0.0, max_new_tokens=10)
    found, same = sample_texts(speaker, [long, shorter], settings=settings, seed=0)
    assert found.continuation == same.continuation
    assert found.bits_per_byte is not None
    endless = Beginning("github", "a", "def", " class self" * 30)
    (unfit,) = sample_texts(speaker, [endless], settings=settings, seed=0)
    assert unfit.bits_per_byte is None


HOSTILE = (
    "| a | <script>alert(1)</script> ``` *b* [x](http://y.z) $c$ \\ &amp; www.d.org\n# e\r\n~~f~~"
)


def test_a_page_shows_texts_as_they_are():
    sample = Sample("git_hub", "1", HOSTILE, HOSTILE, HOSTILE + "x" * 700, "context", 9, 1.5)
    page = samples_markdown({"expert-git_hub": [sample], "seed": []})
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {"text", "text_special", "code_inline", "softbreak"}
    cells = [t.children for a, t in itertools.pairwise(tokens) if a.type == "td_open"]
    texts = ["".join(child.content for child in cell) for cell in cells]
    shown = HOSTILE.replace("\n", " ↵ ", 1).replace("\r\n", "� ↵ ")
    assert texts[:3] == ["the document itself", "", shown]
    assert texts[3:5] == ["expert-git_hub", "1.500"]
    assert texts[5].startswith(shown + "xxx")
    assert texts[5].endswith("x…")


@pytest.fixture
def own_line(finished, tmp_path):
    """A copy of the finished line that a test may change."""
    experiment, home, _ = finished
    shutil.copytree(home.root, tmp_path / "home", symlinks=True)
    return MdelHome(tmp_path / "home").lineage(experiment)


def test_every_model_and_all_experts_together_have_samples(finished):
    experiment, home, _ = finished
    lineage = home.lineage(experiment)
    keys = lineage.keys("sample_texts")
    assert keys == [*lineage.present_models(), POSTERIOR]
    asked = {
        key: [(each.domain, each.prompt) for each in read_samples(lineage, key)] for key in keys
    }
    assert len({tuple(each) for each in asked.values()}) == 1
    assert [domain for domain, _ in asked["seed"]] == lineage.present_domains()
    assert list(side_by_side(lineage, "merged-pair")) == ["merged-pair", "seed", POSTERIOR]


def test_made_again_they_are_the_same_bytes(own_line):
    folder = own_line.folder("sample_texts", "expert-github")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "record.json").unlink()
    assert make(own_line, "sample_texts", ["expert-github"]).failures == {}
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys()
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {"making.json"}


def test_a_model_that_cannot_be_read_stops_no_other(own_line):
    for key in ("expert-github", "expert-arxiv"):
        (own_line.folder("sample_texts", key) / "record.json").unlink()
    flip_bit(own_line.model("expert-github").folder / "model.safetensors")
    made = make(own_line, "sample_texts", ["expert-github", "expert-arxiv"])
    assert list(made.records) == ["expert-arxiv"]
    assert "expert_model 'github'" in str(made.failures["expert-github"])


def test_an_experiment_may_want_none(corpus, home):
    from mdel_assets_tests.conftest import PICO, pico_experiment

    def keys(**settings):
        evaluation = PICO["evaluation"] | {"sample_texts": settings}
        lineage = home.lineage(pico_experiment(corpus, evaluation=evaluation))
        found = lineage.registry["sample_texts"]
        return list(found.keys(lineage.experiment)) if "sample_texts" in lineage.kinds() else []

    assert POSTERIOR in keys()
    assert POSTERIOR not in keys(ensemble=False)
    assert keys(num_documents=0) == []


def test_files_hold_one_sample_a_line(finished):
    experiment, home, _ = finished
    folder = home.lineage(experiment).folder("sample_texts", "seed")
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [row["domain"] for row in rows] == ["github", "arxiv", "freelaw"]
    assert all(row["num_tokens"] <= 8 and row["bits_per_byte"] > 0 for row in rows)
    assert "| `seed` |" in (folder / "samples.md").read_text()


def test_a_page_of_no_samples_says_so(own_line):
    artifact = own_line.artifact("sample_texts", "expert-github")
    (artifact.folder / "samples.jsonl").write_text("")
    forge(artifact)
    shown = _page(own_line, artifact.require())
    assert shown["bits_per_byte"].records == []
