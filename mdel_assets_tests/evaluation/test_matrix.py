"""The matrix: averages and differences by hand, and tables that say them."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdel_assets.evaluation.changes import changes_figure, inline_changes_figure
from mdel_assets.evaluation.findings import best_models, comparisons, findings
from mdel_assets.evaluation.heatmap import heatmap_figure, inline_heatmap_figure
from mdel_assets.evaluation.matrix import build_matrix
from mdel_assets.evaluation.matrix_files import write_matrix
from mdel_assets.evaluation.matrix_markdown import matrix_markdown, matrix_text
from mdel_assets.evaluation.ranking import ranking_rows
from mdel_assets.evaluation.regression import changes_since, document_sums
from mdel_assets.scoring.perplexity import (
    perplexity_row,
    read_cells,
    samples_from,
    samples_table,
    with_samples,
)
from mdel_assets.scoring.token_scores import CELL_SCHEMA, DOCUMENT_SCHEMA

BITS = math.log(2)


def write_scores(folder, per_document_bits):
    """Write documents of 10 bytes with the given bits per byte: {dataset: [bits, ...]}."""
    folder.mkdir(parents=True)
    documents, cells = [], []
    for dataset, values in per_document_bits.items():
        for number, bits in enumerate(values):
            key = f"{dataset}{number:02}"
            nll = bits * 10 * BITS
            documents.append((key, 5, 10, 2, nll, [-nll / 5] * 5))
            cells.append((dataset, "validation_domain", key))
    for name, rows, schema in (
        ("documents.parquet", documents, DOCUMENT_SCHEMA),
        ("cells.parquet", cells, CELL_SCHEMA),
    ):
        columns = list(zip(*rows, strict=True))
        arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), folder / name)
    return folder


MODELS = {
    "seed": {"a": [2.0, 4.0], "b": [1.0] * 8},
    "dense": {"a": [1.0, 3.0], "b": [1.1] * 8},
    "expert-a": {"a": [1.5, 3.0], "b": [1.2] * 8},
    "merged-m": {"a": [2.0, 4.0], "b": [0.9] * 8},
}


# Better than dense by 0.1 on half of the documents of a, worse by 0.2 on the others.
CLOSE = {"expert-b": {"a": [0.9, 3.2], "b": [1.08] * 8}}


@pytest.fixture
def matrix(tmp_path):
    return make_matrix(tmp_path, MODELS)


def repeated(models, times=8):
    """Return the same models on so many times the documents: 16 and 64, enough for verdicts."""
    return {
        model: {dataset: bits * times for dataset, bits in own.items()}
        for model, own in models.items()
    }


def make_matrix(tmp_path, models, **options):
    scores = {name: write_scores(tmp_path / name, bits) for name, bits in models.items()}
    reports = {
        name: [
            perplexity_row(
                cell,
                model=name,
                max_length=16,
                model_fingerprint=name,
                dataset_fingerprint=cell.dataset,
                num_samples=200,
                seed=0,
            )
            for cell in read_cells(folder)
        ]
        for name, folder in scores.items()
    }
    cells = {name: read_cells(folder) for name, folder in scores.items()}
    return build_matrix(
        reports,
        cells,
        splits=["validation_domain"],
        num_samples=200,
        seed=0,
        **{"datasets": list(models["seed"])} | options,
    )


def row(matrix, model, dataset):
    return next(r for r in matrix.rows if (r["model"], r["dataset"]) == (model, dataset))


def test_cells_hold_bits_per_byte_and_the_change_from_the_seed(matrix):
    assert row(matrix, "seed", "a")["bits_per_byte"] == pytest.approx(3.0)
    assert row(matrix, "seed", "a")["change_from_seed"] == 0
    expert = row(matrix, "expert-a", "a")
    assert expert["bits_per_byte"] == pytest.approx(2.25)
    assert expert["change_from_seed"] == pytest.approx(-0.75)
    # Draws of two documents: changes are -0.5, -0.75 or -1.
    assert expert["change_from_seed_low"] == pytest.approx(-1.0)
    assert expert["change_from_seed_high"] == pytest.approx(-0.5)
    assert row(matrix, "expert-a", "b")["change_from_seed"] == pytest.approx(0.2)


def test_averages_count_domains_or_bytes(matrix):
    average = {a.model: a for a in matrix.averages}["expert-a"]
    assert average.macro.value == pytest.approx((2.25 + 1.2) / 2)
    assert average.micro == pytest.approx((2 * 2.25 + 8 * 1.2) / 10)
    assert average.change.value == pytest.approx((-0.75 + 0.2) / 2)


def test_findings_say_who_wins_also_where_the_seed_does(tmp_path):
    matrix = make_matrix(tmp_path, repeated(MODELS))
    said = "\n".join(findings(matrix))
    assert "1 of 1 experts are better than the seed on their own domain" in said
    assert "`merged-m` on average over domains: better, -0.0500" in said
    assert "0 of 1 experts are better than `dense` on their own domain" in said
    assert "`dense` on average over domains: no clear difference" not in said
    assert "Best single model on average: `dense`" in said


def test_experts_and_merges_are_compared_with_every_baseline(matrix):
    found = comparisons(matrix, "validation_domain")
    expert = found["experts, each on its own domain"]
    assert expert["seed"].value == pytest.approx(-0.75)
    # Documents differ from dense by +0.5 and 0: draws of two give 0, 0.25 or 0.5.
    assert expert["dense"].value == pytest.approx(0.25)
    assert (expert["dense"].low, expert["dense"].high) == pytest.approx((0.0, 0.5))
    merged = found["merged-m, all domains"]
    assert merged["seed"].value == pytest.approx(-0.05)
    assert merged["dense"].value == pytest.approx((1.0 - 0.2) / 2)
    text = matrix_text(matrix)
    assert "+0.2500 [+0.0000, +0.5000]" in text


def test_the_best_of_each_domain_is_named_with_those_as_good(tmp_path):
    matrix = make_matrix(tmp_path, repeated(MODELS | CLOSE))
    on_a, on_b = best_models(matrix, "validation_domain")
    assert (on_a.model, on_a.bits_per_byte) == ("dense", pytest.approx(2.0))
    assert on_a.close == ["expert-b"]
    assert (on_b.model, on_b.close) == ("merged-m", [])
    assert "| b | merged-m | 0.9000 | **-0.1000 [-0.1000, -0.1000]** | none |" in (
        matrix_markdown(matrix)
    )


def test_tables_hold_every_model_and_mark_sure_changes(matrix, tmp_path):
    markdown = matrix_markdown(matrix)
    assert "| expert-a | 2.250 ± 0.750 | 1.200 ± 0.000 | 1.725 | 1.410 |" in markdown
    assert "| merged-m | 3.000 ± 1.000 | **0.900 ± 0.000** |" in markdown
    assert "## Missing" not in markdown
    enough = make_matrix(tmp_path / "enough", repeated(MODELS))
    assert "| expert-a | **-0.750** | **+0.200** | **-0.275** |" in matrix_markdown(enough)
    text = matrix_text(enough)
    assert "-0.750*" in text
    assert len({len(line) for line in text.splitlines()[2:4]}) <= 2


def test_files_are_written_and_read_back(matrix, tmp_path):
    (tmp_path / "out").mkdir()
    write_matrix(matrix, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "perplexity.parquet")
    assert table.num_rows == 8
    assert table.column("bits_per_byte").to_pylist() == [r["bits_per_byte"] for r in matrix.rows]
    png = (tmp_path / "out" / "perplexity.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    averages = pq.read_table(tmp_path / "out" / "perplexity_averages.parquet")
    assert np.isclose(averages.column("macro_bits_per_byte")[0].as_py(), 2.0)


def test_models_are_ranked_by_their_average_and_those_as_good_are_marked(tmp_path):
    elsewhere = {"reference-r": {"a": [0.5, 0.5], "b": [0.5] * 8}}
    matrix = make_matrix(tmp_path, repeated(MODELS | CLOSE | elsewhere))
    header, *rows = ranking_rows(matrix, "validation_domain")
    assert header[:3] == ["Rank", "model", "average over domains"]
    # Averages by hand: dense (2 + 1.1) / 2, expert-b (2.05 + 1.08) / 2, expert-a (2.25 + 1.2) / 2.
    assert [row[:3] for row in rows] == [
        ["1", "dense", "1.5500"],
        # Its documents differ by -0.1 and +0.2, so draws give both signs.
        ["2 (as good)", "expert-b", "1.5650"],
        ["3", "expert-a", "1.7250"],
        ["4", "merged-m", "1.9500"],
        ["5", "seed", "2.0000"],
        # From elsewhere, and no rival, however good.
        ["–", "reference-r", "0.5000"],
    ]
    assert [row[5] for row in rows] == ["a", "–", "–", "b", "–", "–"]
    assert rows[0][4] == "**-0.4500**"
    said = "\n".join(findings(matrix))
    assert "Best single model on average: `dense`" in said
    assert [best.model for best in best_models(matrix, "validation_domain")] == [
        "dense",
        "merged-m",
    ]
    assert "| 2 (as good) | expert-b | 1.5650 |" in matrix_markdown(matrix)


def test_stale_cells_are_marked_everywhere(tmp_path):
    place = ("expert-a", "b", "validation_domain")
    matrix = make_matrix(tmp_path, MODELS, stale={place})
    assert [r["is_stale"] for r in matrix.rows].count(True) == 1
    assert row(matrix, "expert-a", "b")["is_stale"]
    markdown, text = matrix_markdown(matrix), matrix_text(matrix)
    assert "1.200 ± 0.000 † |" in markdown
    assert markdown.count("†") == text.count("†") == 2
    (tmp_path / "out").mkdir()
    write_matrix(matrix, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "perplexity.parquet")
    assert table.column("is_stale").to_pylist().count(True) == 1
    assert "†" not in matrix_markdown(make_matrix(tmp_path / "fresh", MODELS))


def test_what_clusters_are_about_is_said(tmp_path):
    matrix = make_matrix(tmp_path, MODELS, legend={"a": "court, appeal"})
    assert "- `a`: court, appeal" in matrix_markdown(matrix)
    assert "a: court, appeal" in matrix_text(matrix)


def test_the_chart_of_changes_has_a_panel_per_domain_and_a_bar_per_model(matrix):
    drawn = changes_figure(matrix, "validation_domain")
    panels = [axes for axes in drawn.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["a", "b"]
    widths = [bar.get_width() for bar in panels[0].patches]
    assert widths == pytest.approx([-1.0, -0.75, 0.0])


@pytest.mark.in_use
def test_all_panels_of_changes_have_one_scale_a_title_and_a_legend(tmp_path):
    near = {name: [1.0 + 0.1 * number] * 4 for number, name in enumerate("abcd")}
    models = {"seed": near} | {
        f"expert-{name}": {d: [v - 0.1 if d == name else v + 0.1 for v in near[d]] for d in near}
        for name in near
    }
    models["expert-a"]["d"] = [9.0] * 4
    drawn = changes_figure(make_matrix(tmp_path, models), "validation_domain")
    panels = [axes for axes in drawn.axes if axes.get_visible()]
    assert len({axes.get_xlim() for axes in panels}) == 1
    assert {axes.get_ylim() for axes in panels} == {(3.7, -0.7)}
    labels = [[text.get_text() for text in axes.get_yticklabels()] for axes in panels]
    assert labels == [[f"expert-{name}" for name in "abcd"], [], [], []]
    # The one far bar is cut and says its length; the others can be told apart.
    assert panels[0].get_xlim()[1] < 0.5
    texts = [text.get_text().strip() for text in panels[3].texts]
    assert texts == ["+7.70", "4 documents, 40 bytes (too few)"]
    assert drawn.get_suptitle() == "Change from the seed on validation_domain"
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["expert (strong: of that domain)"]
    assert "left of zero: better" in legend.get_title().get_text()


@pytest.mark.in_use
def test_the_heatmap_says_what_its_columns_frames_and_dots_are(tmp_path):
    matrix = make_matrix(tmp_path, repeated(MODELS))
    drawn = heatmap_figure(matrix)
    labels = [label.get_text() for label in drawn.axes[0].get_xticklabels()]
    assert labels == ["a\n16 documents, 160 bytes", "b\n64 documents, 640 bytes"]
    written = drawn.get_supxlabel()
    assert "framed: the expert of that domain" in written
    assert "dot: the change from the seed is more than its 95 % interval" in written
    assert "dagger" not in written
    # Text of all other domains is not text of the dataset's own.
    pile = dataclasses.replace(
        matrix,
        splits=["validation_pile"],
        rows=[row | {"split": "validation_pile"} for row in matrix.rows],
    )
    (first, _) = heatmap_figure(pile).axes[0].get_xticklabels()
    assert first.get_text().startswith("all but a\n")


@pytest.mark.in_use
def test_one_outlier_does_not_pale_the_heatmap(tmp_path):
    values = {name: [1.0, 1.0] for name in "abcdef"}
    shifts = {"expert-a": 0.98, "expert-b": 1.03, "expert-c": 1.02}
    models = {"seed": values} | {
        model: {name: [shift, shift] for name in values} for model, shift in shifts.items()
    }
    models["expert-a"]["f"] = [3.0, 3.0]
    (image,) = heatmap_figure(make_matrix(tmp_path, models)).axes[0].images
    assert image.norm.vmax == pytest.approx(2.5 * 3.0)
    assert image.colorbar.extend == "both"


def test_a_missing_cell_is_named(tmp_path):
    scores = {"seed": write_scores(tmp_path / "seed", {"a": [1.0]})}
    reports = {
        "seed": [
            perplexity_row(
                cell,
                model="seed",
                max_length=16,
                model_fingerprint="m",
                dataset_fingerprint="d",
                num_samples=10,
                seed=0,
            )
            for cell in read_cells(scores["seed"])
        ]
    }
    cells = {name: read_cells(folder) for name, folder in scores.items()}
    matrix = build_matrix(
        reports, cells, datasets=["a", "b"], splits=["validation_domain"], num_samples=10, seed=0
    )
    assert matrix.missing == ["seed on b/validation_domain"]
    assert "seed on b/validation_domain" in matrix_markdown(matrix)


def test_a_change_since_the_last_report_is_paired_over_common_documents(tmp_path):
    old = {"a": [2.0, 4.0] * 8 + [1.0], "b": [1.0] * 8, "c": [1.0]}
    # Worse by 0.2 on each document of a but the last, which is gone; better on b; c is gone.
    new = {"a": [2.2, 4.2] * 8, "b": [0.9] * 8, "d": [1.0]}
    before = document_sums(read_cells(write_scores(tmp_path / "old", old)))
    cells = read_cells(write_scores(tmp_path / "new", new))
    worse, better = changes_since(before, cells, num_samples=100, seed=0)
    assert (worse.dataset, worse.num_documents, worse.is_worse) == ("a", 16, True)
    assert (worse.value, worse.low, worse.high) == pytest.approx((0.2, 0.2, 0.2))
    assert (better.dataset, better.num_documents, better.is_worse) == ("b", 8, False)
    assert better.value == pytest.approx(-0.1)


def test_a_change_within_the_interval_is_no_regression(tmp_path):
    before = document_sums(read_cells(write_scores(tmp_path / "old", {"a": [2.0, 2.0, 2.0]})))
    cells = read_cells(write_scores(tmp_path / "new", {"a": [2.5, 1.8, 2.0]}))
    (change,) = changes_since(before, cells, num_samples=200, seed=0)
    assert change.value == pytest.approx(0.1)
    assert change.low < 0 < change.high
    assert not change.is_worse


def test_tables_are_folded_to_the_terminal(tmp_path):
    domains = {f"domain_{number}": [1.0 + number, 2.0] for number in range(12)}
    matrix = make_matrix(tmp_path, {"seed": domains, "dense": domains})
    wide, narrow = (matrix_text(matrix, width=width) for width in (1000, 60))
    assert max(map(len, wide.splitlines())) > 150
    table = narrow.split("Change from the seed")[0]
    assert max(map(len, table.splitlines()[2:])) <= 60
    assert table.count("\nseed ") == table.count("\ndense ") > 3
    for name in domains:
        assert table.split().count(name) == 1


def test_a_picture_on_a_page_has_numbers_only_where_they_can_be_read(tmp_path, matrix):
    many = {f"d{number:02}": [1.0, 2.0] for number in range(22)}
    models = {"seed": many} | {f"expert-{name}": many for name in many}
    large = make_matrix(tmp_path / "large", models)
    written = [
        [text for axes in inline_heatmap_figure(one).axes[:1] for text in axes.texts]
        for one in (matrix, large)
    ]
    assert len(written[0]) == len(matrix.models) * len(matrix.datasets)
    assert written[1] == []
    # Every expert's own domain is framed, and the seed parted from the experts.
    axes = inline_heatmap_figure(large).axes[0]
    assert len(axes.patches) == 22
    assert len(axes.lines) == 1
    drawn = inline_changes_figure(large)
    assert len(drawn.axes[0].get_yticklabels()) == 22
    assert "mean of all domains" in drawn.get_suptitle()


def test_the_bootstrap_is_kept_as_it_was_drawn(tmp_path):
    cells = read_cells(write_scores(tmp_path / "s", {"a": [1.0, 3.0, 2.0], "b": [4.0]}))
    drawn = with_samples(cells, num_samples=50, seed=3)
    kept = samples_from(samples_table(drawn), cells)
    for cell, own in zip(cells, kept, strict=True):
        expected = cell.samples(num_samples=50, seed=3)
        assert np.array_equal(own.samples(num_samples=50, seed=3), expected)
