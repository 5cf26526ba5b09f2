"""A model's licence is what its own card or configuration says, and nothing is made up."""

import json

import pytest

from mdel_assets.experiment.fields import ModelSource
from mdel_assets.training.package_models import package_licence
from mdel_assets.training.seed import adopt_model
from mdel_assets.training.stated_licences import licence_in_card, stated_licence


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# Title\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: my-terms\n---\n", "my-terms"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: [mit, cc0-1.0]\n---\n", "mit, cc0-1.0"),
        ("---\ntags: [x]\n---\nlicense: mit\n", None),
        ("---\n- license: mit\n---\n", None),
        ("---\nlicense: {\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("# Title\n\nlicense: mit\n", None),
    ],
)
def test_front_matter_states_it(card, licence):
    assert licence_in_card(card) == licence


def test_a_folders_card_comes_before_its_configuration(tmp_path):
    assert stated_licence(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"license": "mit"}))
    assert stated_licence(tmp_path) == "mit"
    (tmp_path / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    assert stated_licence(tmp_path) == "cc0-1.0"
    (tmp_path / "README.md").write_text("# No front matter\n")
    assert stated_licence(tmp_path) == "mit"


def test_an_adopted_seed_carries_its_licence(make_model, tmp_path):
    source = make_model()
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    result = adopt_model(ModelSource(path=str(source)), tmp_path, cache=tmp_path / "cache")
    assert result.licence == "mit"
    assert package_licence("sample://smollm2-135m") == "Apache-2.0"
    assert package_licence("EleutherAI/pythia-1b") is None
