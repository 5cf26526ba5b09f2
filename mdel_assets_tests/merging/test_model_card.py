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
