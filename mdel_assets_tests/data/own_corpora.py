"""Tiny corpora of two domains, and what a pass makes of them."""

import json

import pyarrow.parquet as pq

from mdel_assets.data.shard_pass import route_documents
from mdel_assets.experiment.fields import Domain, Source

DOMAINS = [Domain(key="law", name="Law", aliases=("LAW ",)), Domain(key="tax", name="Tax")]
COLUMNS = {"layout": "columns", "domain_field": "dept"}


def run(shard, out, *, domains=DOMAINS, max_reject_rate=0.0, **source):
    out.mkdir(exist_ok=True)
    settings = Source(train=(str(shard),), max_reject_rate=max_reject_rate, **source)
    return route_documents(shard, out, domains=domains, source=settings)


def texts(folder, domain="law"):
    return pq.read_table(folder / f"{domain}.parquet").column("text").to_pylist()


def rejects(folder):
    return pq.read_table(folder / "rejects.parquet").to_pylist()


def jsonl(*texts, dept="Law"):
    return b"".join(json.dumps({"text": t, "dept": dept}).encode() + b"\n" for t in texts)


def folder_of(root, **files):
    """Write files, each called FOLDER__NAME__SUFFIX, and return their folder."""
    for name, content in files.items():
        *folders, stem, suffix = name.split("__")
        path = root.joinpath(*folders, f"{stem}.{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root
