"""Model keys are made and taken apart alike everywhere."""

import pytest

from mdel_assets.experiment.model_keys import DENSE, DENSE_ONE, SEED, Family, ModelKey


def test_a_family_makes_the_keys_of_its_models_in_their_order():
    assert Family.EXPERT.key("pile_cc") == "expert-pile_cc"
    assert Family.MERGED.keys(["b", "mean-all"]) == ["merged-b", "merged-mean-all"]
    assert [SEED, DENSE, DENSE_ONE] == ["seed", "dense", "dense-one"]


@pytest.mark.parametrize(
    ("key", "family", "name"),
    [
        ("seed", Family.SEED, ""),
        ("dense", Family.DENSE, ""),
        ("dense-one", Family.DENSE, "one"),
        ("merged-mean-all", Family.MERGED, "mean-all"),
        ("ensemble-linear-top1", Family.ENSEMBLE, "linear-top1"),
        ("densely/merged-model", None, "densely/merged-model"),
        ("experts", None, "experts"),
    ],
)
def test_a_key_is_a_family_and_a_name_and_anything_else_is_no_key(key, family, name):
    assert ModelKey.parse(key) == ModelKey(family, name)
    assert [f for f in Family if f.has(key)] == ([family] if family else [])
