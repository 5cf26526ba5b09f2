"""Verdicts: given where enough documents bear them, and left out where the interval is too narrow.

The bootstrap of the reports draws from documents whose losses and lengths are skewed, as those of
text are, and whose true mean is known: how often does its interval hold it?
"""

import math

import numpy as np
import pytest

from mdel_assets.evaluation.ensemble_report import (
    ensemble_figure,
    ensemble_findings,
    ensemble_markdown,
    standings,
)
from mdel_assets.evaluation.findings import findings
from mdel_assets.evaluation.heatmap import heatmap_figure
from mdel_assets.evaluation.matrix_markdown import matrix_markdown, matrix_text
from mdel_assets.evaluation.sample_sizes import bytes_in_words
from mdel_assets.experiment.evaluation import MIN_DOCUMENTS
from mdel_assets.scoring.estimates import documents_behind
from mdel_assets.scoring.perplexity import bootstrap_bits_per_byte, interval
from mdel_assets_tests.evaluation.test_glance import USES
from mdel_assets_tests.evaluation.test_matrix import make_matrix, repeated

pytestmark = pytest.mark.in_use
NUM_TRIALS, NUM_DRAWS = 1000, 500
# A 95 % interval should miss the truth in one case of twenty. Three in twenty are bearable.
BEARABLE = 0.85


def coverage(counts):
    """Return how often the interval of a mean over domains holds the true one.

    Each domain has so many of ``counts`` documents, of log-normal length. Their losses follow an
    exponential distribution whose mean is taken off, so that the truth is zero.
    """
    draw = np.random.default_rng(0)
    found = 0
    for trial in range(NUM_TRIALS):
        samples = np.zeros(NUM_DRAWS)
        for domain, count in enumerate(counts):
            size_D = draw.lognormal(7.0, 1.0, count).astype(np.int64) + 1
            nll_D = size_D * (draw.exponential(1.0, count) - 1.0) * math.log(2)
            name = f"{trial}/{domain}"
            samples += bootstrap_bits_per_byte(
                nll_D, size_D, num_samples=NUM_DRAWS, seed=0, name=name
            )
        low, high = interval(samples)
        found += low <= 0 <= high
    return found / NUM_TRIALS


@pytest.mark.parametrize("counts", [[4], [8], [4, 20]])
def test_an_interval_of_too_few_documents_misses_the_truth_too_often(counts):
    assert documents_behind(counts) < MIN_DOCUMENTS
    assert coverage(counts) < BEARABLE


@pytest.mark.parametrize("counts", [[MIN_DOCUMENTS], [6] * 4, [10, 17, 50]])
def test_an_interval_of_as_many_documents_as_a_verdict_needs_can_be_believed(counts):
    assert documents_behind(counts) >= MIN_DOCUMENTS
    assert coverage(counts) >= BEARABLE


def test_a_mean_counts_for_the_documents_that_its_doubt_comes_from():
    assert [documents_behind([count]) for count in (4, 15, 16, 10_000)] == [4, 15, 16, 10_000]
    # Alike in size, the degrees of freedom add up: 3 x 5 + 1.
    assert documents_behind([6, 6, 6]) == 16
    # One small domain is most of the doubt: (1/4 + 2/200)^2 / (1/4^2/3 + ...) + 1.
    assert documents_behind([4, 200, 200]) == 4
    # What three documents vary by cannot be told, however many others there are.
    assert documents_behind([3] * 22) == 3
    assert documents_behind([1, 1000]) == 1
    assert documents_behind([]) == 0


# Every document of a gains as much, so that the interval has no width at all.
FEW = {model: {"a": own["a"] * 2, "b": own["b"]} for model, own in USES.items()}


def test_four_documents_get_no_star_no_dot_and_no_verdict(tmp_path):
    matrix = make_matrix(tmp_path, FEW)
    said = "\n".join(findings(matrix))
    assert "`a` has 4, `b` has 8" in said
    assert "Too few documents to tell whether experts are better than the seed" in said
    assert "too few documents to tell, -0.3000 bits per byte against the seed" in said
    for word in ("better, ", "worse, ", "no clear difference"):
        assert word not in said
    text, markdown = matrix_text(matrix), matrix_markdown(matrix)
    assert "*" not in text.replace("(*: ", "")
    assert "| documents | 4 (too few) | 8 (too few) |" in markdown
    changes = markdown.split("| Change from seed |")[1].split("| Perplexity")[0]
    ranking = markdown.split("| Rank |")[1]
    assert "**" not in changes + ranking
    assert "as good" not in ranking
    assert "2 (too few documents)" in ranking
    assert "•" not in "".join(t.get_text() for t in heatmap_figure(matrix).axes[0].texts)
    ranked = standings(matrix, "validation_domain", num_experts=6)
    assert all("too few documents to tell" in line for line in ensemble_findings(ranked))
    report = ensemble_markdown(matrix, num_experts=6)
    assert "12 documents, 120 bytes (too few)." in report
    assert "**" not in report.split("| change |")[1]


def test_the_same_figures_of_more_documents_are_judged(tmp_path):
    matrix = make_matrix(tmp_path, repeated(USES))
    said = "\n".join(findings(matrix))
    assert "1 of 1 experts are better than the seed on their own domain" in said
    assert "better, -0.3000 bits per byte against the seed" in said
    assert "oo few" not in said + matrix_text(matrix) + matrix_markdown(matrix)
    assert "| documents | 16 | 64 |" in matrix_markdown(matrix)
    assert "| text | 160 bytes | 640 bytes |" in matrix_markdown(matrix)
    assert "•" in "".join(t.get_text() for t in heatmap_figure(matrix).axes[0].texts)
    ranked = standings(matrix, "validation_domain", num_experts=6)
    assert "better, " in ensemble_findings(ranked)[0]
    assert "80 documents, 800 bytes." in ensemble_markdown(matrix, num_experts=6)


def test_the_picture_of_ensembles_has_one_scale_a_title_and_a_legend(tmp_path):
    matrix = make_matrix(tmp_path, repeated(USES) | {"ensemble-label": repeated(USES)["dense"]})
    drawn = ensemble_figure(matrix, num_experts=6)
    (axes,) = drawn.axes
    assert axes.get_title() == "validation_domain\n80 documents, 800 bytes"
    assert "ensemble-posterior-all (6)" in [t.get_text() for t in axes.get_yticklabels()]
    assert "Ensembles of experts and single models" in drawn.get_suptitle()
    (legend,) = drawn.legends
    kinds = [text.get_text() for text in legend.get_texts()]
    assert kinds == ["single model", "ensemble", "each document's own expert (a bound)"]
    assert "left: better" in legend.get_title().get_text()


def test_bytes_are_written_to_three_figures():
    sizes = (7, 999, 1000, 102_400, 999_499, 999_500, 1_254_000_000_000)
    words = ["7 bytes", "999 bytes", "1 kB", "102 kB", "999 kB", "1 MB", "1.25 TB"]
    assert [bytes_in_words(size) for size in sizes] == words
