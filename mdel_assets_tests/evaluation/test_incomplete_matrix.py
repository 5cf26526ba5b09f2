"""A matrix that lacks a model's scores of a domain: what is compared all the same, and on what."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdel_assets.evaluation.findings import best_models, comparisons, findings
from mdel_assets.evaluation.matrix_files import write_matrix
from mdel_assets.evaluation.matrix_markdown import matrix_markdown
from mdel_assets.evaluation.ranking import ranking_rows
from mdel_assets.evaluation.sweep import sweep_entry
from mdel_assets_tests.evaluation.test_matrix import MODELS, make_matrix, repeated

INCOMPLETE = {
    "the seed": MODELS | {"seed": {"a": [2.0, 4.0]}},
    "a rival": MODELS | {"dense": {"a": [1.0, 3.0]}},
}


@pytest.mark.parametrize("whose", INCOMPLETE)
def test_models_are_compared_on_the_domains_that_all_of_them_have(tmp_path, whose):
    models = {model: INCOMPLETE[whose][model] for model in MODELS}
    models["expert-b"] = {"a": [4.0, 4.0], "b": [0.5] * 8}
    matrix = make_matrix(tmp_path, repeated(models), datasets=["a", "b"])
    lacking = {"the seed": "seed", "a rival": "dense"}[whose]
    assert matrix.missing == [f"{lacking} on b/validation_domain"]
    averages = {average.model: average for average in matrix.averages}
    assert set(averages) == set(models)
    # On a alone, where dense has 2.0, the seed 3.0.
    assert averages["expert-b"].macro.value == averages["expert-b"].micro == pytest.approx(4.0)
    assert averages["expert-b"].change.value == pytest.approx(1.0)
    assert averages["expert-b"].against(averages["dense"]).value == pytest.approx(2.0)
    ranked = [row[1] for row in ranking_rows(matrix, "validation_domain")[1:]]
    assert ranked == ["dense", "expert-a", "seed", "merged-m", "expert-b"]
    merged = comparisons(matrix, "validation_domain")["merged-m, all domains"]
    assert merged["dense"].value == pytest.approx(1.0)
    assert [best.dataset for best in best_models(matrix, "validation_domain")] == ["a"]
    told = f"`b` is left out of comparisons on `validation_domain`: no figure of `{lacking}`"
    assert any(line.startswith(told) for line in findings(matrix))
    assert told in matrix_markdown(matrix)
    (tmp_path / "out").mkdir()
    write_matrix(matrix, tmp_path / "out")


def test_models_without_a_common_domain_are_not_compared(tmp_path):
    models = {"seed": {"a": [2.0, 4.0]}, "expert-b": {"b": [0.5, 1.0]}}
    matrix = make_matrix(tmp_path, models, datasets=["a", "b"])
    assert matrix.averages == []
    (tmp_path / "out").mkdir()
    write_matrix(matrix, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "perplexity_averages.parquet")
    assert table.num_rows == 0
    assert table.schema.field("change_from_seed_high").type == pa.float64()


def test_a_variant_has_no_change_where_the_seed_has_no_figure(tmp_path):
    matrix = make_matrix(tmp_path, INCOMPLETE["the seed"], datasets=["a", "b"])
    on_a, on_b = (
        sweep_entry(matrix, "expert-a", domain=d, num_trained_parameters=1, num_tokens=1).changes
        for d in "ab"
    )
    assert on_a["validation_domain"].value == pytest.approx(-0.75)
    assert on_b == {}


def test_nothing_is_said_to_be_left_out_where_nothing_is(tmp_path):
    assert "left out" not in matrix_markdown(make_matrix(tmp_path, MODELS))
