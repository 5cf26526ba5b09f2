"""A page of 22 domains and 27 models, around the other contents of a page that is given."""

import dataclasses
import math
import random

from mdel_assets.reporting.matrix_tables import averages_of, domain_changes, heat_of
from mdel_assets.reporting.trainings import LossRow, curves_svg
from mdel_assets_tests.evaluation.test_matrix import make_matrix

DOMAINS = [f"domain_of_texts_{number}" for number in range(1, 23)]
MODELS = ["seed", "dense-one", "dense", *(f"expert-{d}" for d in DOMAINS), "merged-m", "merged-n"]


def wide(page, folder):
    """Return ``page`` with the matrix, curves and losses of 22 domains and 27 models."""
    chance = random.Random(0)
    models = {
        model: {
            domain: [2 + chance.gauss(0.1 * (model != f"expert-{domain}"), 0.02) for _ in range(20)]
            for domain in DOMAINS
        }
        for model in MODELS
    }
    matrix = make_matrix(folder, models)
    split = matrix.splits[0]
    curves = {
        domain: [(step, 3 + number / 9 + math.exp(-step / 20)) for step in range(1, 81)]
        for number, domain in enumerate(DOMAINS)
    }
    losses = [LossRow(domain, 4_096_000, 1.5, 3.5, 3.25) for domain in DOMAINS]
    (row, *_) = page.corpus.domains
    corpus = dataclasses.replace(
        page.corpus, domains=[dataclasses.replace(row, key=domain) for domain in DOMAINS]
    )
    (text, *_) = page.texts.shown
    return dataclasses.replace(
        page,
        heats=[heat_of(matrix, split)] * 2,
        averages=averages_of(matrix, split),
        changes=domain_changes(matrix, split),
        trainings=dataclasses.replace(page.trainings, curves=curves_svg(curves), losses=losses),
        corpus=corpus,
        texts=dataclasses.replace(
            page.texts, shown=[dataclasses.replace(text, domain=domain) for domain in DOMAINS]
        ),
    )
