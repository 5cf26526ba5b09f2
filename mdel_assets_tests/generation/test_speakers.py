"""Speakers of a finished line: their probabilities against the report's own arithmetic."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from mdel_assets.errors import GenerationError, MissingArtifactError, ScoringError
from mdel_assets.evaluation import ensemble_scores
from mdel_assets.evaluation.ensemble import log_posterior, mix
from mdel_assets.evaluation.router import Router
from mdel_assets.generation.speakers import Speakers
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make
from mdel_assets.scoring.evaluation_documents import evaluation_documents
from mdel_assets.scoring.perplexity import read_cells
from mdel_assets.scoring.token_scores import DOCUMENTS_NAME
from mdel_assets.training.model_files import load_tokenizer

MAX_LENGTH, NUM_TEXTS = 36, 20


@pytest.fixture(scope="module")
def scored(finished, tmp_path_factory):
    """The finished line, its experts scored on test texts, too, in windows of 36 tokens."""
    experiment, home, _ = finished
    folder = tmp_path_factory.mktemp("scored") / "home"
    shutil.copytree(home.root, folder, symlinks=True)
    splits = ("validation_domain", "test_domain")
    evaluation = experiment.evaluation.model_copy(
        update={"splits": splits, "max_length": MAX_LENGTH}
    )
    lineage = MdelHome(folder).lineage(experiment.model_copy(update={"evaluation": evaluation}))
    models = [m for m in lineage.present_models() if m.startswith(("expert-", "random-"))]
    done = make(lineage, "token_scores", models)
    assert done.failures == {}
    return lineage


@pytest.fixture(scope="module")
def expected(scored):
    """By ensemble: the report's log-probabilities of the tokens of texts, by (id, domain told)."""
    store, evaluation = scored, scored.experiment.evaluation
    domains, numbers = scored.present_domains(), scored.keys("random_split_expert")
    scores = {domain: store.folder("token_scores", f"expert-{domain}") for domain in domains}
    dealt = {number: store.folder("token_scores", f"random-{number}") for number in numbers}
    cells = read_cells(next(iter(scores.values())))
    documents = ensemble_scores._read_documents(
        cells,
        {domain: store.folder("domain_dataset", domain) for domain in domains},
        Router(store.folder("domain_router"), temperature=evaluation.ensemble.temperature),
        load_tokenizer(store.folder("seed_model")),
        None,
    )
    decay = evaluation.ensemble.prior_decay
    domain_of = {
        key: (number, cell.dataset)
        for number, cell in enumerate(cells)
        for key in cell.document_ids
        if cell.split == "test_domain"
    }
    found = {}
    for folders, prefix in ((scores, "ensemble-"), (dealt, "ensemble-random-split-")):
        priors = ensemble_scores._priors(cells, folders, decay=decay)
        for key, log_p_ET in ensemble_scores._lockstep(folders):
            number, domain = domain_of.get(key, (0, None))
            document = documents[key] if folders is scores else ensemble_scores._Document(None, {})
            weights = dict(ensemble_scores._label_free_weights(document, log_p_ET))
            without_prior = weights["ensemble-posterior-all-without-prior"]
            posterior = without_prior
            if domain is not None:
                half = ensemble_scores._half(key)
                posterior = log_posterior(log_p_ET, priors[number, half])
            weights |= ensemble_scores._by_number_kept("posterior", posterior)
            for name, weights_ET in weights.items():
                own = name.replace("ensemble-", prefix)
                # Nobody knows the label of a text that no domain is told of.
                if domain is not None or name != "ensemble-label":
                    found.setdefault(own, {})[key, domain] = mix(log_p_ET, weights_ET)
    return found


@pytest.fixture(scope="module")
def texts(scored, expected):
    """(id, domain or None, text) of twenty documents: twelve of told domains, eight of none."""
    datasets = {d: scored.folder("domain_dataset", d) for d in scored.present_domains()}
    by_id = dict(evaluation_documents(datasets, scored.experiment.evaluation).texts())
    keys = list(expected["ensemble-uniform"])
    told = [key for key in keys if key[1] is not None][:12]
    untold = [key for key in keys if key[1] is None][:8]
    chosen = [*told, *untold]
    assert len(chosen) == NUM_TEXTS
    assert len({domain for _, domain in told}) == 3
    return [(key, domain, by_id[key]) for key, domain in chosen]


def names_in_report(finished):
    """Return the ensembles that stand in the finished report."""
    _, home, _ = finished
    table = pq.read_table(home.root / "pico" / "reports" / "ensemble.parquet", columns=["model"])
    return {name for name in table.column("model").to_pylist() if name.startswith("ensemble-")}


def test_every_ensemble_of_the_report_and_every_model_can_speak(finished):
    experiment, home, _ = finished
    lineage = home.lineage(experiment)
    names = Speakers(lineage).names()
    assert set(names) == {*lineage.present_models(), *names_in_report(finished)}
    assert names.index("ensemble-posterior-top2") > names.index("merged-pair")


def forced(speaker, tokens, domains):
    """Return the log-probabilities of texts' tokens, all forced along in one batch.

    The first text's prompt has twelve tokens, the next one's one more, and so on.
    """
    sequences = [
        speaker.start(text[:size], domain=domain, num_top=0)
        for size, (text, domain) in enumerate(zip(tokens, domains, strict=True), start=12)
    ]
    found = [[score.log_probability for score in each.prompt_scores] for each in sequences]
    while under_way := [
        b for b, sequence in enumerate(sequences) if len(sequence.tokens) < len(tokens[b])
    ]:
        chosen = [tokens[b][len(sequences[b].tokens)] for b in under_way]
        for b, token in zip(under_way, chosen, strict=True):
            found[b].append(float(sequences[b].log_probabilities_V[token]))
        speaker.step([sequences[b] for b in under_way], chosen)
    return found


def test_forced_along_texts_every_ensemble_gives_what_its_scores_say(
    scored, expected, texts, finished
):
    speakers = Speakers(scored)
    for name in names_in_report(finished):
        by_text, speaker = expected[name], speakers.load(name)
        chosen = [(key, domain, text) for key, domain, text in texts if (key, domain) in by_text]
        assert len(chosen) == (12 if name == "ensemble-label" else NUM_TEXTS)
        # A window of scoring is one text as far as it goes.
        tokens = [speaker.encode(text)[:MAX_LENGTH] for _, _, text in chosen]
        assert max(map(len, tokens)) > 32
        found = forced(speaker, tokens, [domain for _, domain, _ in chosen])
        for (key, domain, _), given in zip(chosen, found, strict=True):
            right = by_text[key, domain][: len(given)]
            np.testing.assert_allclose(given, right, atol=1e-5, rtol=0, err_msg=name)


def test_a_single_model_gives_what_its_scores_say(scored, texts):
    speaker = Speakers(scored).load("expert-arxiv")
    path = scored.folder("token_scores", "expert-arxiv") / DOCUMENTS_NAME
    rows = pq.read_table(path, columns=["document_id", "log_probabilities"]).to_pylist()
    right = {row["document_id"]: row["log_probabilities"] for row in rows}
    tokens = [speaker.encode(text)[:MAX_LENGTH] for _, _, text in texts]
    for (key, _, _), given in zip(texts, forced(speaker, tokens, [None] * 20), strict=True):
        np.testing.assert_allclose(given, right[key][: len(given)], atol=1e-5, rtol=0)


def test_what_speakers_have_in_common_is_held_once(finished):
    experiment, home, _ = finished
    speakers = Speakers(home.lineage(experiment))
    before = speakers.bytes_at_most("ensemble-uniform")
    layer = 4 * (4 * 32 + 32 * 96 + 96 + 32 * 32 + 32 + 2 * 32 * 64 + 64 + 32)
    rest = 4 * (2 * 320 * 32 + 2 * 32)
    # A rotary embedding's two frequencies and their copy are in no file.
    frequencies = 2 * 2 * 4
    whole = rest + 3 * layer
    assert before == whole + 2 * 2 * layer
    ensemble = speakers.load("ensemble-uniform")
    assert speakers.held_bytes == before + frequencies
    assert ensemble.networks.num_shared_layers == 1
    assert speakers.bytes_at_most("expert-github") == 0
    speakers.load("expert-github")
    assert speakers.held_bytes == before + frequencies
    assert speakers.bytes_of("expert-github") == whole + frequencies
    assert speakers.bytes_of("ensemble-uniform") == speakers.held_bytes
    speakers.release("ensemble-uniform")
    assert speakers.held_bytes == whole + frequencies
    assert speakers.load("expert-github") is speakers.load("expert-github")
    # Keys and values of a shared layer and of two of each expert's; the trunk's states.
    assert ensemble.cache_bytes_per_token == 4 * 32 * (2 * (1 + 3 * 2) + 1)


def test_an_ensemble_leaves_single_models_as_they_are(scored):
    speakers = Speakers(scored)
    alone = speakers.load("expert-github")
    before = alone.start([5, 6, 7]).log_probabilities_V.clone()
    together = speakers.load("ensemble-uniform")
    together.start([8, 9])
    assert bool((alone.start([5, 6, 7]).log_probabilities_V == before).all())


def test_what_cannot_speak_is_refused_with_the_remedy(finished, branched, lineage):
    experiment, home, _ = finished
    speakers = Speakers(home.lineage(experiment))
    with pytest.raises(GenerationError, match="Did you mean 'ensemble-posterior-top2'"):
        speakers.load("ensemble-posterior-top-2")
    with pytest.raises(GenerationError, match=r"none was told. Name one of github, arxiv, freelaw"):
        speakers.load("ensemble-label").start([5])
    with pytest.raises(GenerationError, match=r"Unknown domain 'githup'. Did you mean 'github'"):
        speakers.load("expert-github").start([5], domain="githup")
    changed = experiment.training.model_copy(update={"learning_rate": 1e-5})
    other = home.lineage(experiment.model_copy(update={"training": changed}))
    with pytest.raises(
        GenerationError, match=r"expert_model.*out of date.*learning_rate.*mdel run"
    ):
        Speakers(other).load("ensemble-uniform")
    assert Speakers(branched[1].lineage(branched[0])).names() == ["seed"]
    with pytest.raises(MissingArtifactError, match=r"expert_model.*is missing.*mdel run"):
        Speakers(branched[1].lineage(branched[0])).load("expert-github")
    with pytest.raises(MissingArtifactError, match="is missing"):
        Speakers(lineage).names()


def test_a_prior_needs_scores_of_the_domains_validation_texts(finished):
    experiment, home, _ = finished
    changed = experiment.evaluation.model_copy(update={"max_length": 16})
    speakers = Speakers(home.lineage(experiment.model_copy(update={"evaluation": changed})))
    speaker = speakers.load("ensemble-posterior-all")
    speaker.start([5])
    with pytest.raises(GenerationError, match=r"token_scores.*out of date.*max_length"):
        speaker.start([5], domain="github")


def test_a_prior_without_validation_texts_is_refused(scored, tmp_path):
    from mdel_assets.generation.ensembles import domain_prior

    folders = {"github": scored.folder("token_scores", "expert-github")}
    with pytest.raises(ScoringError, match=r"prior of 'enron'.*validation_domain"):
        domain_prior(folders, "enron", decay=0.9)


def test_tokenizer_and_fingerprint_are_known_without_weights(finished):
    experiment, home, _ = finished
    lineage = home.lineage(experiment)
    speakers = Speakers(lineage)
    assert speakers.fingerprint("dense") == lineage.model("dense").require().fingerprint
    names = [name for name in speakers.names() if name.startswith("ensemble-")]
    assert len({speakers.fingerprint(name) for name in names}) == len(names) == 14
    weighing = experiment.evaluation.ensemble.model_copy(update={"temperature": 0.2})
    evaluation = experiment.evaluation.model_copy(update={"ensemble": weighing})
    other = Speakers(home.lineage(experiment.model_copy(update={"evaluation": evaluation})))
    assert other.fingerprint("ensemble-tfidf-all") != speakers.fingerprint("ensemble-tfidf-all")
    assert other.fingerprint("dense") == speakers.fingerprint("dense")
    tokenizer = speakers.tokenizer("ensemble-uniform")
    assert speakers.held_bytes == 0
    text = "def return <|endoftext|> court"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == speakers.load("ensemble-uniform").encode(text)
