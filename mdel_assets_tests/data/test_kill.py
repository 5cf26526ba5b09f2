"""A pass over a shard that is killed leaves nothing; the rerun gives the same bytes."""

import contextlib
import signal

import pytest
import yaml

from mdel_assets.line.making import make_one
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import make_documents, pico_experiment, write_shard

CODE = """
import sys
from pathlib import Path
from mdel_assets.line.making import make_one
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome
lineage = MdelHome(Path(sys.argv[1])).lineage(load_experiment(sys.argv[2]))
print("ready", flush=True)
make_one(lineage, "shard_documents", "00")
"""


def num_bytes_in(folder):
    """Return the bytes of all files below ``folder``, which come and go."""
    found = 0
    with contextlib.suppress(FileNotFoundError):
        for path in folder.rglob("*"):
            found += path.stat().st_size if path.is_file() else 0
    return found


@pytest.mark.slow
def test_a_killed_pass_leaves_nothing_under_the_final_name(home, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    documents = make_documents({"Github": 60, "ArXiv": 30})
    write_shard(corpus / "00.jsonl.zst", documents * 3000)
    for name in ("01", "val", "test"):
        write_shard(corpus / f"{name}.jsonl.zst", documents)
    experiment = pico_experiment(corpus)
    path = tmp_path / "pico.yaml"
    path.write_text(yaml.safe_dump(experiment.model_dump(mode="json", exclude_none=True)))
    lineage = home.lineage(experiment)
    make_one(lineage, "raw_pile_shard", "00")
    artifact = lineage.artifact("shard_documents", "00")
    words = ["-c", CODE, home.root, path]
    # How far it is, by the bytes that it has written.
    for written in (0, 1, 10_000):
        with warm_python.start(words) as process:
            process.read_until("ready")
            while num_bytes_in(artifact.folder.parent) < written:
                assert process.poll() is None
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not artifact.folder.exists()
    warm_python.run(words, check=True)
    once = artifact.record_path.read_bytes()
    assert artifact.require().counts["num_documents"] == 270_000
    # Digests in the record are those of the files: equal records are equal bytes.
    artifact.record_path.unlink()
    make_one(lineage, "shard_documents", "00")
    assert artifact.record_path.read_bytes() == once
