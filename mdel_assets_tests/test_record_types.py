"""What a record holds is read into the types that it was written from."""

import dataclasses
import json

from mdel_assets.data.dataset_counts import Contamination, DatasetCounts, SplitCount
from mdel_assets.data.raw_shard import RawShard
from mdel_assets.data.shard_counts import DomainCount, ShardCounts, UnreadFiles, domains_of
from mdel_assets.experiment.fields import SPLITS
from mdel_assets.forecasting.model import Prediction, as_json, predictions_of
from mdel_assets.line.making import make_one
from mdel_assets.store.records import Record
from mdel_assets.training.results import ExpertResult, SeedResult, TrainingHistory, history_of

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


def test_a_raw_shard_is_read_as_it_was_written(lineage, corpus):
    record = make_one(lineage, "raw_pile_shard", "00")
    path = corpus / "00.jsonl.zst"
    found = RawShard.of(Record.parse(record.text()))
    assert (found.file, found.location, found.role) == (path.name, str(path), "train")
    assert found.size_bytes == path.stat().st_size
    assert found.details() == record.details


def test_what_a_training_predictions_and_domains_of_records_are():
    details = as_read({"history": dataclasses.asdict(HISTORY), "num_parameters": 3})
    assert history_of(details).num_tokens == 640
    assert history_of({"history": None}) is None
    assert history_of({}) is None
    predictions = {"mean": Prediction(1.5, -0.5, 3.5)}
    assert predictions_of(as_read({"predictions": as_json(predictions)})) == predictions
    counts = as_read({"domains": {"github": dataclasses.asdict(DomainCount(7, 70))}})
    assert domains_of(counts) == {"github": DomainCount(7, 70)}
