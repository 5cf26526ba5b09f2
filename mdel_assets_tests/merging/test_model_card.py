"""The card says what the model was made of, in a form that the Hub's own reader takes."""

import yaml
from huggingface_hub import ModelCard

from mdel_assets.merging.model_card import model_card


def test_the_card_holds_recipe_and_inputs_and_is_valid():
    recipe = yaml.safe_dump({"merge_method": "linear", "models": [{"model": "expert-arxiv"}]})
    text = model_card(
        "mean-all (pico)",
        recipe_yaml=recipe,
        inputs={"seed_model": "0123", "expert_model 'arxiv'": "4567"},
        seed="EleutherAI/pythia-1b",
        result={"num_parameters": 1_234_567, "num_tensors": 30, "num_copied_tensors": 12},
    )
    card = ModelCard(text)
    assert card.data.library_name == "transformers"
    assert card.data.tags == ["merge", "mdel"]
    fence = "`" * 3
    shown = card.text.split(f"{fence}yaml\n")[1].split(fence)[0]
    assert yaml.safe_load(shown) == yaml.safe_load(recipe)
    assert "| `expert_model 'arxiv'` | `4567` |" in card.text
    assert "1,234,567 parameters in 30 tensors, of which\n12 are equal" in card.text


RESULT = {"num_parameters": 10, "num_tensors": 3, "num_copied_tensors": 1}
SEED, EXPERT = "seed_model", "expert_model 'arxiv'"


def card(**options):
    inputs = {SEED: "01", EXPERT: "23", "searched_merge 'm'": "45"}
    recipe = "merge_method: linear\n"
    return model_card("m", recipe_yaml=recipe, inputs=inputs, seed="x", result=RESULT, **options)


def test_inputs_have_their_links_and_licences():
    text = card(
        links={SEED: "https://huggingface.co/org/seed/tree/main", EXPERT: "../../experts/arxiv"},
        licences={SEED: "apache-2.0", EXPERT: None},
        corpus_licences=["CC0*", "MIT"],
    )
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    hub = "[huggingface.co/org/seed/tree/main](https://huggingface.co/org/seed/tree/main)"
    assert rows == [
        f"| `{SEED}` | `01` | {hub} | apache-2.0 |",
        f"| `{EXPERT}` | `23` | [experts/arxiv](../../experts/arxiv) | not stated |",
        "| `searched_merge 'm'` | `45` | – | – |",
    ]
    assert "Documents of the corpus have one of these licences: CC0*, MIT." in text


def test_the_card_claims_a_licence_only_where_all_inputs_state_the_same():
    def claimed(*stated):
        licences = dict(zip((SEED, EXPERT), stated, strict=True))
        return ModelCard(card(licences=licences)).data.get("license")

    assert claimed("Apache-2.0", "Apache-2.0") == "apache-2.0"
    assert claimed("apache-2.0", "mit") is None
    assert claimed("apache-2.0", None) is None
    assert ModelCard(card()).data.get("license") is None


def test_the_perplexity_table_is_that_of_the_report():
    row = {
        "dataset": "arxiv",
        "split": "test_domain",
        "num_documents": 7,
        "num_bytes": 100,
        "bits_per_byte": 1.23456,
        "bits_per_byte_low": 1.2,
        "bits_per_byte_high": 1.3,
        "perplexity": 12.3456,
    }
    empty = row | {"split": "test_pile", "num_bytes": 0, "bits_per_byte": None, "perplexity": None}
    text = card(perplexity=[row, empty], search=["`test_domain`: better than the mean."])
    assert "| arxiv | `test_domain` | 1.2346 | 1.2000 to 1.3000 | 12.35 | 7 |" in text
    assert "test_pile" not in text
    assert "- `test_domain`: better than the mean." in text
    assert "## Perplexity" not in card()
