"""Models by tasks: the table, the correlation with bits per byte, and how sure it is."""

import pytest

from mdel_assets.tasks.chart import comparison_figure
from mdel_assets.tasks.comparison import Column, compare, findings
from mdel_assets.tasks.comparison_text import (
    comparison_as_json,
    comparison_markdown,
    comparison_text,
)
from mdel_assets.tasks.results import Figure, TaskResult

ACC = Column("quiz", "acc")


def result(value, *, name="quiz", error=0.01, metric="acc", is_higher_better=True):
    figure = Figure(name, metric, "none", value, error, is_higher_better, 200)
    return TaskResult(name, {name: 1.0}, {name: 0}, [figure])


def comparison(values, bits=None, **options):
    models = [f"model-{i}" for i in range(len(values))]
    results = {m: {"quiz": result(v, **options)} for m, v in zip(models, values, strict=True)}
    given = bits or [float(i) for i in range(1, len(values) + 1)]
    return compare(results, dict(zip(models, given, strict=False)), split="validation_domain")


def test_the_correlation_is_that_of_hand():
    # Deviations (-1.5, -.5, .5, 1.5) and (-1.5, .5, -.5, 1.5): 4 of 5.
    (found,) = comparison([0.1, 0.3, 0.2, 0.4]).correlations
    assert (found.column, found.num_models) == (ACC, 4)
    assert found.pearson == pytest.approx(0.8)
    assert found.rank == pytest.approx(0.8)
    # The critical value of r for two degrees of freedom, as tables print it.
    assert found.chance == pytest.approx(0.950, abs=5e-4)


def test_a_weak_correlation_of_few_models_is_said_to_show_nothing():
    (told,) = findings(comparison([0.1, 0.3, 0.2, 0.4]))
    assert told == (
        "`quiz`: 4 models have `acc` and bits per byte on `validation_domain`: Pearson +0.80, rank "
        "+0.80. Chance alone reaches 0.95 in one of twenty cases with so many models: this shows "
        "nothing."
    )


@pytest.mark.parametrize(
    ("values", "is_higher_better", "words"),
    [
        ([0.5, 0.41, 0.3, 0.2, 0.1], True, "fewer bits go with better answers"),
        ([0.1, 0.21, 0.3, 0.4, 0.5], True, "fewer bits go with worse answers"),
        ([1.0, 2.1, 3.0, 4.0, 5.0], False, "fewer bits go with better answers"),
    ],
)
def test_what_goes_together_depends_on_which_way_is_better(values, is_higher_better, words):
    (told,) = findings(comparison(values, is_higher_better=is_higher_better))
    assert words in told
    assert "Models that share a seed are alike" in told


def test_three_models_and_equal_figures_have_no_correlation():
    (told,) = findings(comparison([0.1, 0.2, 0.3]))
    assert told.endswith("too few for a correlation.")
    (told,) = findings(comparison([0.5] * 5))
    assert told.endswith("all of them have the same figure, so there is no correlation.")
    (found,) = comparison([0.1, 0.2, 0.3, 0.4, 0.5], bits=[1.0, 2.0]).correlations
    assert (found.num_models, found.pearson) == (2, None)


def test_the_table_has_figures_errors_and_items():
    results = {
        "seed": {"quiz": result(0.5), "prose": result(12.5, name="prose", error=None)},
        "dense": {"quiz": result(0.25)},
    }
    found = compare(results, {"seed": 1.25}, split="test_domain")
    assert comparison_markdown(found).split("\n")[4:9] == [
        "| model | bits per byte | quiz acc ↑ | prose acc ↑ |",
        "| --- | ---: | ---: | ---: |",
        "| seed | 1.2500 | 0.5000 ± 0.0100 | 12.5000 |",
        "| dense | – | 0.2500 ± 0.0100 | – |",
        "| items |  | 200 | 200 |",
    ]
    wide, narrow = (comparison_text(found, width=width) for width in (100, 40))
    assert wide.split("\n")[1].split() == ["seed", "1.2500", "0.5000", "±", "0.0100", "12.5000"]
    assert max(map(len, narrow.split("\n\n")[0].split("\n"))) <= 40
    assert "prose acc ↑" in narrow
    rows = comparison_as_json(found)["figures"]
    assert [(row["model"], row["task"], row["value"], row["bits_per_byte"]) for row in rows] == [
        ("seed", "quiz", 0.5, 1.25),
        ("seed", "prose", 12.5, 1.25),
        ("dense", "quiz", 0.25, None),
    ]


def test_the_chart_shows_each_model_at_its_figures():
    drawn = comparison_figure(comparison([0.1, 0.3, 0.2, 0.4]))
    (axes,) = drawn.axes
    assert axes.get_title() == "quiz acc ↑"
    points = axes.lines[0].get_xydata().tolist()
    assert points == [[1.0, 0.1], [2.0, 0.3], [3.0, 0.2], [4.0, 0.4]]


def test_the_first_metric_of_which_more_is_better_stands_for_a_task():
    perplexity = Figure("quiz", "perplexity", "none", 9.0, None, False, 200)
    acc = Figure("quiz", "acc", "none", 0.5, 0.01, True, 200)
    norm = Figure("quiz", "acc_norm", "none", 0.6, 0.01, True, 200)
    assert TaskResult("quiz", {}, {}, [perplexity, acc, norm]).main == [acc]
    assert TaskResult("quiz", {}, {}, [perplexity]).main == [perplexity]
    # Of a tag, which has no figure of its own, each task is shown.
    other = Figure("other", "acc", "none", 0.5, 0.01, True, 200)
    assert TaskResult("tag", {}, {}, [acc, other]).main == [acc, other]
