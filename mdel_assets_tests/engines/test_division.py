"""What is made is divided among jobs, whose folders are found again whatever is left to make."""

from mdel_assets.engines.division import Division, Share, shares_of
from mdel_assets.kinds import KINDS

(SCORES,) = [kind for kind in KINDS if kind.name == "token_scores"]
(DATASETS,) = [kind for kind in KINDS if kind.name == "domain_dataset"]
KEYS = [f"expert-{number}" for number in range(20)]


def folder_names(kind, keys, **division):
    return [share.folder_name for share in shares_of(kind, keys, Division(**division))]


def test_a_pack_has_the_same_folder_once_others_are_made():
    packs = folder_names(SCORES, KEYS)
    assert len(set(packs)) == 3
    assert folder_names(SCORES, KEYS[8:]) == packs[1:]


def test_what_is_divided_otherwise_has_other_folders():
    several = [
        folder_names(SCORES, KEYS),
        folder_names(SCORES, KEYS, parts=2),
        folder_names(SCORES, KEYS, parts=3),
        folder_names(SCORES, KEYS, models_per_job=7),
        folder_names(DATASETS, KEYS),
        folder_names(DATASETS, KEYS[1:]),
    ]
    names = [name for names in several for name in names]
    assert len(names) == len(set(names))


def test_the_folder_of_one_artifact_has_its_key():
    assert folder_names(DATASETS, ["arxiv"]) == ["arxiv"]
    assert folder_names(SCORES, ["seed"]) == ["seed"]
    assert Share("1 of 2", ("seed",), (0, 2)).folder_name != "seed"
