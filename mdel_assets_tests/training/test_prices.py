"""Prices of trainings against what they read, and of models from elsewhere against one made."""

import pyarrow.parquet as pq
import pytest

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.evaluation.prices import evaluated, of_scores
from mdel_assets.forecasting.prices import of_probes
from mdel_assets.generation.prices import of_samples
from mdel_assets.line.making import make_all, make_one
from mdel_assets.training import prices
from mdel_assets.training.baseline import Part, mixed_blocks
from mdel_assets.training.model_files import load_tokenizer
from mdel_assets.training.model_sizes import ModelSizes
from mdel_assets.training.model_sources import config_of_source
from mdel_assets.training.packing import pack
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.conftest import PICO, pico_experiment

DOMAINS = ("github", "arxiv", "freelaw")


def reading_epochs(corpus, **settings):
    """Return the pico experiment whose trainings read their text three times."""
    training = PICO["training"] | {"num_epochs": 3.0} | settings
    del training["num_tokens"]
    own = {"domain": "github", "text": "domain"}
    return pico_experiment(corpus, training=training, variants={"own": own}, forecast={})


def packed(lineage, domain, *, only=None):
    """Return the blocks that an expert of ``domain`` reads in an epoch."""
    training = lineage.experiment.training
    documents = SplitDocuments.of(
        lineage.folder("domain_dataset", domain) / "train.parquet", domain=only
    )
    return pack(
        documents,
        load_tokenizer(lineage.folder("seed_model")),
        block_size=training.block_size,
        num_blocks=None,
        max_documents=training.max_train_documents,
        seed=training.seed,
    )


@pytest.mark.parametrize("most", [None, 10, 1000])
def test_epochs_are_of_the_documents_that_a_training_takes(corpus, branched, most):
    lineage = branched[1].lineage(reading_epochs(corpus, max_train_documents=most))
    sizes, training = Sizes(lineage), lineage.experiment.training
    # Tokens in a byte are those of all domains' held-out text, and Github's words are others.
    expected = pytest.approx(3 * packed(lineage, "github").size, rel=0.35)
    assert prices.of_expert(sizes, "github").num_tokens == expected
    own = pytest.approx(3 * packed(lineage, "github", only="github").size, rel=0.35)
    assert prices.of_variant(sizes, "own").num_tokens == own
    folders = {domain: lineage.folder("domain_dataset", domain) for domain in DOMAINS}
    tokenizer = load_tokenizer(lineage.folder("seed_model"))
    for price, number, part in (
        (prices.of_dense(sizes, ""), 3, None),
        (prices.of_one_share(sizes, ""), 1, None),
        (prices.of_one_share(sizes, "1"), 1, Part(0, 3)),
    ):
        blocks = mixed_blocks(folders, tokenizer, training, num_experts=number, part=part)
        assert price.num_tokens == pytest.approx(blocks.size, rel=0.35)
    # A twentieth of what each expert reads, in whole steps of 128 tokens.
    probes = sum(packed(lineage, domain).size for domain in DOMAINS) * 3 * 0.05
    assert of_probes(sizes, "").num_tokens == pytest.approx(probes, rel=0.35, abs=3 * 64)


@pytest.mark.parametrize("most", [None, 5])
def test_epochs_of_the_seed_are_of_the_domains_own_text(corpus, branched, most):
    pretrain = PICO["seed_model"]["pretrain"] | {"num_epochs": 4.0, "max_train_documents": most}
    del pretrain["num_tokens"]
    lineage = branched[1].lineage(pico_experiment(corpus, seed_model={"pretrain": pretrain}))
    num_bytes = 0.0
    for domain in DOMAINS:
        table = pq.read_table(
            lineage.folder("domain_dataset", domain) / "train.parquet"
        ).to_pylist()
        num_bytes += sum(
            row["num_bytes"] for row in [r for r in table if r["domain"] == domain][:most]
        )
    sizes = Sizes(lineage)
    expected = pytest.approx(4 * num_bytes * sizes.tokens_per_byte, rel=0.05)
    assert prices.of_seed(sizes, "").num_tokens == expected


def test_a_baseline_of_epochs_counts_the_tokens_of_all_datasets_first(corpus, branched):
    lineage = branched[1].lineage(reading_epochs(corpus))
    sizes, training = Sizes(lineage), lineage.experiment.training
    num_bytes = sum(
        sum(row["num_bytes"] for row in pq.read_table(folder / "train.parquet").to_pylist())
        for folder in (lineage.folder("domain_dataset", domain) for domain in DOMAINS)
    )
    share = num_bytes * sizes.tokens_per_byte / 3
    for price, number in ((prices.of_dense, 3), (prices.of_one_share, 1)):
        alike = prices.of_training(sizes, training, num_tokens_there=share, num_experts=number)
        more = price(sizes, "").core_seconds - alike.core_seconds
        # A core tokenizes 2.5 MB in a second.
        assert more == pytest.approx(num_bytes / 2.5e6)
    by_tokens = Sizes(branched[1].lineage(branched[0]))
    alike = prices.of_training(by_tokens, branched[0].training, num_tokens_there=share)
    assert prices.of_one_share(by_tokens, "").core_seconds == alike.core_seconds


def test_losses_of_held_out_blocks_are_of_the_splits_that_a_training_has(corpus, branched):
    training = PICO["training"] | {"eval_steps": 5}
    watched, quiet = (
        Sizes(branched[1].lineage(pico_experiment(corpus, training=settings)))
        for settings in (training, PICO["training"])
    )
    model = quiet.model
    # Sixteen steps of 4 blocks of 32; a training has four held-out blocks of each split.
    steps = 16 * model.step(4, length=32, trained=model.trained((1, 2)))
    before, after = model.forward(128, length=32), model.forward(128, length=32, first=1)
    expert, one = prices.of_expert, prices.of_one_share
    assert expert(quiet, "github").operations == pytest.approx(steps + 2 * (before + after))
    assert one(quiet, "").operations == pytest.approx(steps + before + after)
    # After steps 5, 10 and 15, every layer of each held-out block runs again.
    assert expert(watched, "github").operations == pytest.approx(steps + 2 * (4 * before + after))
    assert one(watched, "").operations == pytest.approx(steps + 4 * before + after)
    # The seed's 32 blocks are of all domains' text together.
    whole = 16 * model.step(4, length=32, trained=model.trained(None))
    seed = prices.of_seed(quiet, "").operations - whole
    assert seed == pytest.approx(model.forward(32 * 32, length=32))


def test_a_baseline_keeps_no_states_though_it_reads_text_again(corpus, branched):
    training = PICO["training"] | {"num_tokens": 128_000}
    sizes = Sizes(branched[1].lineage(pico_experiment(corpus, training=training)))
    model = sizes.model
    steps = 1000 * model.step(4, length=32, trained=model.trained((1, 2)))
    assert prices.of_one_share(sizes, "").operations > steps
    assert prices.of_expert(sizes, "github").operations < steps


def with_reference(corpus, home, path):
    evaluation = PICO["evaluation"] | {"references": {"other": {"path": str(path)}}}
    experiment = pico_experiment(corpus, evaluation=evaluation)
    return home.lineage(experiment)


def bytes_on_disk(artifact):
    files = artifact.read_record().files.values()
    return sum(file["size_bytes"] for file in files) + artifact.record_path.stat().st_size


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_disk_of_a_reference_is_that_of_an_adopted_one(corpus, branched, make_model, dtype):
    other = make_model("llama", dtype=dtype, hidden_size=64, num_hidden_layers=4)
    lineage = with_reference(corpus, branched[1], other)
    price = prices.of_reference(Sizes(lineage), "other")
    make_one(lineage, "reference_model", "other")
    made = bytes_on_disk(lineage.artifact("reference_model", "other"))
    assert price.disk_bytes == pytest.approx(made, rel=0.05)
    # Widths and layers are the reference's: two matrices of the vocabulary, four layers of seven.
    own = 2 * 320 * 64 + 64 + 4 * (4 * 64 * 64 + 3 * 64 * 64 + 2 * 64)
    assert price.memory_bytes == 4 * own


def test_scores_and_samples_of_a_reference_are_those_of_its_own_sizes(corpus, branched, make_model):
    other = make_model("llama", hidden_size=64, num_hidden_layers=4)
    sizes = Sizes(with_reference(corpus, branched[1], other))
    model = sizes.reference("other").model
    scores, seeds = (of_scores(sizes, key) for key in ("reference-other", "seed"))
    tokens = evaluated(sizes).num_bytes * sizes.reference("other").tokens_per_byte
    assert scores.num_tokens == pytest.approx(tokens)
    # It shares no layer with another: every token goes through all of them.
    assert scores.operations == pytest.approx(model.forward(tokens, length=32))
    assert scores.config is model.config
    assert seeds.config is None
    samples = of_samples(sizes, "reference-other")
    # A text of each of three domains, a prompt and eight tokens: keys and values of four layers.
    settings = sizes.experiment.evaluation.sample_texts
    rate = sizes.reference("other").tokens_per_byte
    prompt, written = settings.prompt_characters * rate, settings.max_new_tokens
    length = round(prompt + written)
    heads, kept = model.config.num_attention_heads, model.config.num_key_value_heads
    cached = 3 * length * 4 * 2 * 4 * (64 // heads * kept)
    logits = 3 * 4 * 512 * model.vocab_rows
    assert samples.memory_bytes == pytest.approx(
        4 * model.num_parameters + 1.3 * cached + logits, rel=1e-6
    )
    # The prompt is read before what is written, and before the true text.
    assert samples.num_tokens == pytest.approx(3 * (2 * prompt + 4 * written * rate + written))
    assert samples.operations == pytest.approx(model.forward(samples.num_tokens, length=length))
    assert samples.disk_bytes == of_samples(sizes, "seed").disk_bytes


def test_disk_of_a_references_scores_and_samples_is_that_of_made_ones(corpus, branched, make_model):
    other = make_model("llama", hidden_size=64, num_hidden_layers=4)
    lineage = with_reference(corpus, branched[1], other)
    make_one(lineage, "reference_model", "other")
    sizes = Sizes(lineage)
    for kind, price in (("token_scores", of_scores), ("sample_texts", of_samples)):
        make_all(lineage, kind, ["reference-other"])
        made = bytes_on_disk(lineage.artifact(kind, "reference-other"))
        # A record of so small an artifact is smaller than those that prices have in mind.
        bound = pytest.approx(made, rel=0.25, abs=2_500)
        assert price(sizes, "reference-other").disk_bytes == bound, kind


def test_the_sizes_of_a_packages_model_are_known_before_it_is_unpacked():
    sizes = ModelSizes(config_of_source("sample://smollm2-135m", revision="main"))
    # 134,515,008 is what the model's card has.
    assert (sizes.num_parameters, sizes.num_layers) == (134_515_008, 30)
