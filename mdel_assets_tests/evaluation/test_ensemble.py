"""Ensembles: Bayes by hand, causality, and every figure against a loop without arrays."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdel_assets.errors import ScoringError
from mdel_assets.evaluation.ensemble import (
    keep_best,
    log_posterior,
    mix,
    moving_average_prior,
    prefixes,
    reading_places,
    spread_readings,
)
from mdel_assets.evaluation.ensemble_report import (
    best_single,
    ensemble_figure,
    ensemble_findings,
    ensemble_markdown,
    standings,
    write_ensemble_report,
)
from mdel_assets.evaluation.ensemble_scores import ensemble_cells, num_experts_run
from mdel_assets.evaluation.matrix import build_matrix
from mdel_assets.evaluation.router import ROUTERS, Router, train_router
from mdel_assets.experiment.evaluation import Ensemble
from mdel_assets.experiment.model_keys import POSTERIOR
from mdel_assets.scoring.perplexity import perplexity_row, read_cells
from mdel_assets.scoring.token_scores import CELL_SCHEMA, DOCUMENT_SCHEMA
from mdel_assets.training.model_files import load_tokenizer
from mdel_assets_tests.conftest import WORDS, make_documents

LABELS = {"github": "Github", "arxiv": "ArXiv", "freelaw": "FreeLaw"}
UNIFORM = np.log([0.5, 0.5])


def random_log_p(num_experts=3, num_tokens=40, seed=0):
    return np.log(np.random.default_rng(seed).uniform(0.01, 0.9, (num_experts, num_tokens)))


def test_the_posterior_is_bayes_rule_over_the_tokens_before():
    log_p = np.log([[0.5, 0.2, 0.9], [0.25, 0.4, 0.9]])
    weights = np.exp(log_posterior(log_p, np.log([0.2, 0.8])))
    np.testing.assert_allclose(weights[:, 0], [0.2, 0.8])
    first = [0.2 * 0.5, 0.8 * 0.25]
    np.testing.assert_allclose(weights[:, 1], np.array(first) / sum(first))
    second = [first[0] * 0.2, first[1] * 0.4]
    np.testing.assert_allclose(weights[:, 2], np.array(second) / sum(second))


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_later_tokens_change_no_earlier_weight(kept):
    log_p = random_log_p()
    changed = log_p.copy()
    least = int(log_posterior(log_p, np.zeros(3))[:, 25].argmin())
    changed[:, 25:] = math.log(0.01)
    changed[least, 25:] = math.log(0.99)
    prior = np.log([0.6, 0.3, 0.1])
    before, after = (keep_best(log_posterior(p, prior), kept) for p in (log_p, changed))
    # Token 25 is weighed by tokens 0 to 24.
    np.testing.assert_array_equal(before[:, :26], after[:, :26])
    assert not np.array_equal(before[:, 26:], after[:, 26:])


def test_the_heaviest_are_kept_and_ties_stay():
    weights = np.log([[0.5, 1 / 3], [0.3, 1 / 3], [0.2, 1 / 3]])
    np.testing.assert_allclose(np.exp(keep_best(weights, 1)), [[1, 1 / 3], [0, 1 / 3], [0, 1 / 3]])
    np.testing.assert_allclose(np.exp(keep_best(weights, 2))[:, 0], [0.625, 0.375, 0])
    assert keep_best(weights, 3) is weights


def test_probabilities_are_averaged_not_their_logarithms():
    log_p = np.log([[0.5, 0.1], [0.1, 0.7]])
    mixed = mix(log_p, np.broadcast_to(UNIFORM[:, None], (2, 2)))
    np.testing.assert_allclose(np.exp(mixed), [0.3, 0.4])


def test_the_prior_moves_towards_each_documents_posterior():
    nll = np.array([[100.0, 0.0], [0.0, 100.0]])
    prior = np.exp(moving_average_prior(nll, decay=0.9))
    np.testing.assert_allclose(prior, [0.9 * 0.45 + 0.1, 0.9 * 0.55])
    np.testing.assert_allclose(np.exp(moving_average_prior(nll[:0], decay=0.9)), [0.5, 0.5])


def test_a_router_reads_only_what_stands_before():
    assert reading_places(8) == []
    assert reading_places(40) == [8, 16, 32]
    starts = [3 * i for i in range(40)]
    text = "".join(f"{i:02} " for i in range(40))
    assert [len(p) for p in prefixes(text, starts)] == [24, 48, 96]
    changed = text[:60] + "x" * 60
    assert prefixes(changed, starts)[:2] == prefixes(text, starts)[:2]
    readings = np.log([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    weights = np.exp(spread_readings(readings, 40))
    np.testing.assert_allclose(weights[0], [0.5] * 8 + [0.9] * 8 + [0.2] * 16 + [0.4] * 8)
    assert spread_readings(readings[:0], 0).shape == (2, 0)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Three dataset folders with a train and a validation split; general halves of neighbours."""
    folder = tmp_path_factory.mktemp("datasets")
    texts = {key: make_documents({label: 24}) for key, label in LABELS.items()}
    found = {}
    for key in LABELS:
        found[key] = folder / key
        found[key].mkdir()
        other = next(k for k in LABELS if k != key)
        for split, rows, domain in (
            ("train", slice(0, 12), key),
            ("validation_domain", slice(12, 18), key),
            ("validation_pile", slice(18, 24), other),
        ):
            chosen = [document["text"] for document in texts[domain][rows]]
            table = {
                "document_id": [f"{domain}-{split}-{i:x}" for i in range(len(chosen))],
                "text": chosen,
                "domain": [domain] * len(chosen),
            }
            pq.write_table(pa.table(table), found[key] / f"{split}.parquet")
    return found


@pytest.fixture(scope="module")
def router(datasets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("router")
    confusions = train_router(datasets, folder, settings=Ensemble(), seed=0)
    return Router(folder, temperature=0.1), confusions


def test_routers_tell_domains_apart(router, datasets):
    found, confusions = router
    assert found.domains == list(LABELS)
    assert {c.router for c in confusions} == set(ROUTERS)
    for confusion in confusions:
        assert sum(map(sum, confusion.counts)) == 18
        assert confusion.accuracy > 0.9
    text = pq.read_table(datasets["arxiv"] / "validation_domain.parquet").column("text")[0].as_py()
    for name in ROUTERS:
        weights = np.exp(found.log_weights([text, ""], name))
        np.testing.assert_allclose(weights.sum(axis=1), 1.0)
        assert weights[0].argmax() == 1


def test_two_domains_have_a_router_and_one_has_none(datasets, tmp_path):
    two = {key: datasets[key] for key in ("github", "freelaw")}
    confusions = train_router(two, tmp_path, settings=Ensemble(), seed=0)
    assert all(c.accuracy > 0.9 for c in confusions)
    with pytest.raises(ScoringError, match=r"needs two domains .* has 1"):
        train_router({"github": datasets["github"]}, tmp_path, settings=Ensemble(), seed=0)


@pytest.fixture(scope="module")
def tokenizer(make_model):
    return load_tokenizer(make_model())


@pytest.fixture(scope="module")
def scores(datasets, tokenizer, tmp_path_factory):
    """Token scores of three experts and a seed, drawn at random, better on the own domain."""
    draw = np.random.default_rng(0)
    texts = {}
    cells = []
    for dataset, folder in datasets.items():
        for split in ("validation_domain", "validation_pile"):
            table = pq.read_table(folder / f"{split}.parquet").to_pylist()
            texts |= {row["document_id"]: row["text"] for row in table}
            cells += [(dataset, split, row["document_id"]) for row in table]
    root = tmp_path_factory.mktemp("scores")
    for model in ("seed", *LABELS):
        rows = []
        for key in sorted(texts):
            count = len(tokenizer(texts[key])["input_ids"])
            best = 0.6 if key.startswith(model) else 0.5
            values = np.log(draw.uniform(0.1, best, count)).astype(np.float32)
            nll = -float(values.sum(dtype=np.float64))
            rows.append((key, count, len(texts[key].encode()), 3, nll, values))
        (root / model).mkdir()
        for name, content, schema in (
            ("documents.parquet", rows, DOCUMENT_SCHEMA),
            ("cells.parquet", cells, CELL_SCHEMA),
        ):
            columns = zip(*content, strict=True)
            arrays = [pa.array(list(c), f.type) for c, f in zip(columns, schema, strict=True)]
            pq.write_table(pa.Table.from_arrays(arrays, schema=schema), root / model / name)
    return {model: root / model for model in ("seed", *LABELS)}


@pytest.fixture(scope="module")
def ensembles(scores, datasets, router, tokenizer):
    experts = {key: scores[key] for key in LABELS}
    return ensemble_cells(experts, datasets, router=router[0], tokenizer=tokenizer, prior_decay=0.9)


def slow_nll(per_expert, weights_before):
    """Return a document's negative log-likelihood, token by token, in plain Python."""
    total = 0.0
    for position in range(len(per_expert[0])):
        weights = weights_before(position)
        total -= math.log(
            sum(w * math.exp(p[position]) for w, p in zip(weights, per_expert, strict=True))
        )
    return total


def slow_bayes(per_expert, prior, position):
    joint = [w * math.exp(sum(p[:position])) for w, p in zip(prior, per_expert, strict=True)]
    return [value / sum(joint) for value in joint]


def test_ensembles_agree_with_a_loop_in_plain_python(ensembles, scores):
    stored = {}
    for expert in LABELS:
        for row in pq.read_table(scores[expert] / "documents.parquet").to_pylist():
            stored.setdefault(row["document_id"], []).append(row["log_probabilities"])
    third = [1 / 3] * 3
    for number, cell in enumerate(ensembles["ensemble-uniform"]):
        own = ensembles[POSTERIOR][number]
        assert (own.dataset, own.split) == (cell.dataset, cell.split)
        for row, key in enumerate(cell.document_ids):
            experts = stored[key]
            expected = slow_nll(experts, lambda _: third)
            assert cell.nll_nats_D[row] == pytest.approx(expected, rel=1e-9)
            bare = ensembles["ensemble-posterior-all-without-prior"][number].nll_nats_D[row]
            by_hand = slow_nll(experts, lambda t, e=experts: slow_bayes(e, third, t))
            assert bare == pytest.approx(by_hand, rel=1e-9)
            # The prior: the cell's documents of the other half, in order.
            others = [k for k in cell.document_ids if int(k[-1], 16) % 2 != int(key[-1], 16) % 2]
            prior = third
            for other in others:
                whole = slow_bayes(stored[other], third, len(stored[other][0]))
                prior = [0.9 * a + 0.1 * b for a, b in zip(prior, whole, strict=True)]
            with_prior = slow_nll(experts, lambda t, e=experts, p=prior: slow_bayes(e, p, t))
            assert own.nll_nats_D[row] == pytest.approx(with_prior, rel=1e-9)


def test_the_label_takes_the_expert_of_each_documents_domain(ensembles, scores):
    for cell in ensembles["ensemble-label"]:
        for row, key in enumerate(cell.document_ids):
            expert = scores[key.split("-")[0]]
            own = next(
                c for c in read_cells(expert) if (c.dataset, c.split) == (cell.dataset, cell.split)
            )
            assert cell.nll_nats_D[row] == pytest.approx(own.nll_nats_D[row], rel=1e-6)


def test_how_many_models_run_is_what_serving_costs():
    runs = {
        "seed": 1,
        "expert-github": 1,
        "ensemble-label": 1,
        "ensemble-uniform": 5,
        "ensemble-posterior-top1": 5,
        "ensemble-tfidf-top2": 2,
        "ensemble-linear-all": 5,
    }
    assert {name: num_experts_run(name, 5) for name in runs} == runs


def test_experts_scored_on_different_tokens_are_refused(
    scores, datasets, router, tokenizer, tmp_path
):
    table = pq.read_table(scores["arxiv"] / "documents.parquet").slice(1)
    first = pq.read_table(scores["arxiv"] / "documents.parquet").slice(0, 1).to_pylist()[0]
    first["log_probabilities"] = first["log_probabilities"][:-1]
    shorter = pa.concat_tables([pa.Table.from_pylist([first], schema=DOCUMENT_SCHEMA), table])
    pq.write_table(shorter, tmp_path / "documents.parquet")
    (tmp_path / "cells.parquet").write_bytes((scores["arxiv"] / "cells.parquet").read_bytes())
    experts = {key: scores[key] for key in LABELS} | {"arxiv": tmp_path}
    settings = {"router": router[0], "tokenizer": tokenizer, "prior_decay": 0.9}
    with pytest.raises(ScoringError, match="different documents or tokens"):
        ensemble_cells(experts, datasets, **settings)
    with pytest.raises(ScoringError, match="Materialize domain_router again"):
        ensemble_cells({"github": scores["github"]}, datasets, **settings)


def matrix_of(cells, splits):
    """Return the matrix of models and ensembles with these cells."""
    rows = {
        name: [
            perplexity_row(
                cell,
                model=name,
                max_length=8,
                model_fingerprint="m",
                dataset_fingerprint="d",
                num_samples=100,
                seed=0,
            )
            for cell in own
        ]
        for name, own in cells.items()
    }
    return build_matrix(rows, cells, datasets=list(LABELS), splits=splits, num_samples=100, seed=0)


def test_the_report_judges_against_the_best_single_model(ensembles, scores):
    singles = {name: read_cells(folder) for name, folder in scores.items()}
    cells = {**singles, **ensembles}
    splits = ["validation_domain", "validation_pile"]
    matrix = matrix_of(cells, splits)
    ranked = standings(matrix, splits[0], num_experts=3)
    assert [s.macro.value for s in ranked] == sorted(s.macro.value for s in ranked)
    best = best_single([a for a in matrix.averages if a.split == splits[0]])
    by_name = {s.name: s for s in ranked}
    assert by_name[best.model].change.value == 0
    posterior = by_name[POSTERIOR]
    assert posterior.change.value == pytest.approx(posterior.macro.value - best.macro.value)
    assert posterior.change.low <= posterior.change.value <= posterior.change.high
    said = ensemble_findings(ranked)
    assert f"against `{best.model}`, the best single model" in said[0]
    assert "; that is " in said[0]
    assert said[1].startswith("`ensemble-linear-top1`: ")
    assert said[1].endswith("; one model runs per token.")
    assert "Cheapest to serve" in said[-1]
    assert "per token" in said[-1]
    markdown = ensemble_markdown(matrix, num_experts=3)
    assert all(f"| {name} |" in markdown for name in cells)


def without_text(cell):
    """Return the same cell without any document."""
    none = {
        field.name: getattr(cell, field.name)[:0]
        for field in dataclasses.fields(cell)
        if field.name.endswith("_D") or field.name == "document_ids"
    }
    return dataclasses.replace(cell, **none)


def test_a_split_without_text_is_named_and_the_others_are_judged(ensembles, scores, tmp_path):
    singles = {name: read_cells(folder) for name, folder in scores.items()}
    cells = {
        name: [without_text(c) if c.split == "validation_pile" else c for c in own]
        for name, own in {**singles, **ensembles}.items()
    }
    splits = ["validation_domain", "validation_pile"]
    matrix = matrix_of(cells, splits)
    assert standings(matrix, "validation_pile", num_experts=3) == []
    whole = ensemble_markdown(matrix_of({**singles, **ensembles}, splits), num_experts=3)
    domain, pile = ensemble_markdown(matrix, num_experts=3).split("## `validation_pile`")
    assert domain == whole.split("## `validation_pile`")[0]
    assert pile.split() == ["No", "text."]
    (axes,) = ensemble_figure(matrix, num_experts=3).axes
    assert axes.get_title().startswith("validation_domain\n")
    write_ensemble_report(matrix, tmp_path, num_experts=3, merged={})
    assert pq.read_table(tmp_path / "ensemble_averages.parquet").num_rows == len(cells)
    first = dataclasses.replace(matrix, splits=splits[::-1])
    with pytest.raises(ScoringError, match=r"on validation_pile, .* Put a split with text first"):
        write_ensemble_report(first, tmp_path, num_experts=3, merged={})


@pytest.fixture(scope="module")
def of_other_domains(datasets, tmp_path_factory):
    """The datasets, with general halves that hold documents of a domain without an expert."""
    folder = tmp_path_factory.mktemp("of_other_domains")
    for key, source in datasets.items():
        (folder / key).mkdir()
        for path in source.iterdir():
            table = pq.read_table(path)
            if path.stem == "validation_pile":
                labels = ["enron", *table.column("domain").to_pylist()[1:]]
                table = table.set_column(2, "domain", pa.array(labels))
            pq.write_table(table, folder / key / path.name)
    return {key: folder / key for key in datasets}


def test_the_label_weighs_experts_alike_on_text_of_a_domain_without_one(
    of_other_domains, scores, router, tokenizer
):
    experts = {key: scores[key] for key in LABELS}
    found = ensemble_cells(
        experts, of_other_domains, router=router[0], tokenizer=tokenizer, prior_decay=0.9
    )
    for label, uniform in zip(found["ensemble-label"], found["ensemble-uniform"], strict=True):
        assert np.isfinite(label.nll_nats_D).all()
        if label.split == "validation_pile":
            assert label.nll_nats_D[0] == uniform.nll_nats_D[0]
            assert (label.nll_nats_D[1:] != uniform.nll_nats_D[1:]).all()


def test_a_router_that_reads_other_tokens_than_were_scored_is_refused(
    datasets, scores, router, make_model, tmp_path
):
    """Else it would read text that is still to be predicted, or the report would end midway."""
    every_second = load_tokenizer(make_model())
    every_second.add_tokens(["def return", "theorem proof", "court appeal"])
    every_second.add_tokens([f" {word}" for words in WORDS.values() for word in words])
    experts = {key: scores[key] for key in LABELS}
    settings = {"router": router[0], "tokenizer": every_second, "prior_decay": 0.9}
    with pytest.raises(ScoringError, match="other tokens than were scored"):
        ensemble_cells(experts, datasets, **settings)
