"""A searched merge: weights found on validation text, then judged on test text.

`find_weights` ties the parts together: `candidates` makes models in memory, `search_texts` provides
the texts they are scored on, `search` chooses the next trial, `search_report` reports the result.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.experiment.merge_recipe import MergeRecipe, Search
from mdel_assets.merging.candidates import Candidates
from mdel_assets.merging.search import (
    MEAN_START,
    SEED_START,
    search_weights,
    starting_points,
)
from mdel_assets.merging.search_report import Verdict, judge
from mdel_assets.merging.search_texts import validation_subsample
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.surrogate import Array
from mdel_assets.merging.trials import TRIALS_NAME, Trial, TrialLog
from mdel_assets.scoring.evaluation_documents import evaluation_documents, tokenize
from mdel_assets.scoring.perplexity import Cell, cells_of
from mdel_assets.scoring.token_scores import (
    DocumentSize,
    documents_table,
    prefix_token_id,
)
from mdel_assets.training.model_files import load_tokenizer, reading

_log = logging.getLogger(__name__)
_TEST_SPLITS = ("test_domain", "test_pile")
SEARCHED = "searched"


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The result of a search: each model's weight, in a recipe's form, and its quality.

    ``trials`` are all trials, ``best`` the chosen one. ``verdicts`` are on test splits.
    """

    weights: dict[str, Any]
    best: Trial
    trials: list[Trial]
    verdicts: list[Verdict]
    num_shared_layers: int
    num_documents: int
    num_also_evaluated: int


def find_weights(
    recipe: MergeRecipe,
    inputs: Sequence[MergeInput],
    *,
    base: MergeInput,
    datasets: Mapping[str, Path],
    evaluation: Evaluation,
    work_folder: Path,
) -> SearchResult:
    """Search for the weights of ``recipe``'s models; resume after the trials in ``work_folder``.

    Raises:
        MergeError: the models cannot be merged, or the search does not support them.
        ScoringError: there is no validation text, or no model gives finite probabilities.

    """
    search = recipe.mdel.search
    assert search is not None
    tokenizer = reading(load_tokenizer(base.folder), evaluation.special_tokens)
    prefix = prefix_token_id(tokenizer, evaluation.prefix_token)
    subsample = validation_subsample(datasets, search=search, evaluation=evaluation)
    tokens = tokenize(tokenizer, subsample.texts)
    shape = (search.layer_groups, len(inputs))
    log = TrialLog(work_folder / TRIALS_NAME)
    with Candidates(
        recipe.without_search(),
        inputs,
        base=base,
        evaluation=evaluation,
        folder=work_folder,
        layer_groups=search.layer_groups,
    ) as candidates:
        _log.info(
            "searching %d weights on %d documents; %d layers run once for all trials",
            *(shape[0] * shape[1], len(tokens), candidates.num_shared_layers),
        )

        def score(weights_N: Array) -> dict[str, float]:
            scores = candidates.score(weights_N.reshape(shape), tokens, prefix=prefix)
            nll_D = np.array([-float(s.sum(dtype=np.float64)) for s in scores])
            return subsample.bits_per_byte(nll_D)

        best = search_weights(
            score,
            num_models=shape[1],
            num_groups=shape[0],
            num_trials=search.num_trials,
            log=log,
        )
        best_GM = np.array(best.weights).reshape(shape)
        return SearchResult(
            weights=candidates.weight_settings(best_GM),
            best=best,
            trials=list(log),
            verdicts=_verdicts(candidates, best_GM, search, evaluation, datasets, tokenizer),
            num_shared_layers=candidates.num_shared_layers,
            num_documents=len(tokens),
            num_also_evaluated=subsample.num_also_evaluated,
        )


def _verdicts(
    candidates: Candidates,
    best_GM: Array,
    search: Search,
    evaluation: Evaluation,
    datasets: Mapping[str, Path],
    tokenizer: Any,
) -> list[Verdict]:
    """Judge the answer on test text, against the uniform mean and the seed."""
    scope = evaluation.model_copy(
        update={"splits": _TEST_SPLITS, "max_documents": search.num_test_documents}
    )
    documents = evaluation_documents(datasets, scope)
    cut = {key: text[: search.max_test_characters] for key, text in documents.texts()}
    sizes = [DocumentSize.of(key, text) for key, text in cut.items()]
    tokens = tokenize(tokenizer, list(cut.values()))
    prefix = prefix_token_id(tokenizer, evaluation.prefix_token)
    starts = starting_points(best_GM.shape[1], num_groups=best_GM.shape[0])
    rivals = {name: starts[name].reshape(best_GM.shape) for name in (MEAN_START, SEED_START)}
    cells: dict[str, list[Cell]] = {}
    for name, weights_GM in {SEARCHED: best_GM, **rivals}.items():
        # Each model runs completely: cached states of all test documents could fill a disk.
        scores = candidates.score(weights_GM, tokens, prefix=prefix, keep_states=False)
        cells[name] = cells_of(documents_table(sizes, scores), documents.cells)
    return judge(cells, evaluation=scope, ours=SEARCHED)
