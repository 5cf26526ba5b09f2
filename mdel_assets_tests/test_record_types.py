"""What a record holds is read into the types that it was written from."""

import dataclasses
import json

from mdel_assets.data.dataset_counts import Contamination, DatasetCounts, SplitCount
from mdel_assets.data.shard_counts import DomainCount, ShardCounts, UnreadFiles
from mdel_assets.experiment.fields import SPLITS
from mdel_assets.training.results import ExpertResult, SeedResult, TrainingHistory

HISTORY = TrainingHistory(10, 640, 5, 2.0, 3.5, {"loss": [[1, 4.0], [10, 3.5]]})


def as_read(content):
    return json.loads(json.dumps(content))


def test_a_training_s_result_is_read_as_it_was_written():
    expert = ExpertResult(HISTORY, [3, 4], 100, 900, {"validation_domain": 4.0}, {}, [], ["h.3"])
    seed = SeedResult(None, "LlamaForCausalLM", 1000, 5, 512, None, "apache-2.0")
    for result in (expert, seed):
        assert type(result).of(as_read(dataclasses.asdict(result))) == result


def test_what_lies_beside_a_record_or_came_later_may_be_missing():
    details = as_read(dataclasses.asdict(SeedResult(HISTORY, "LlamaForCausalLM", 1000, 5, 9, 3.2)))
    for name in ("num_processes", "tokens_per_second"):
        del details["history"][name]
    del details["licence"]
    found = SeedResult.of(details | {"tracked_at": "https://wandb.ai/runs/1"})
    assert (found.licence, found.history.tokens_per_second) == (None, None)
    assert found.history.final_loss == 3.5


def test_counts_of_datasets_and_shards_are_read_as_they_were_written():
    splits = {split: SplitCount(9, 5, 4, 4, 90, 50) for split in SPLITS}
    dataset = DatasetCounts(splits, {"test_domain": Contamination(9, 1, 80, 3)}, 0, 1000)
    assert dataset.as_json()["train"]["num_domain_documents"] == 5
    assert DatasetCounts.of(as_read(dataset.as_json())) == dataset
    unread = {".exe": UnreadFiles(2, ("a.exe", "b.exe"))}
    shard = ShardCounts(9, 1, 7, 70, 1, 0, 0, {}, {}, {}, {"github": DomainCount(7, 70)})
    shard = dataclasses.replace(shard, unread_files=unread)
    assert ShardCounts.of(as_read(dataclasses.asdict(shard))) == shard
