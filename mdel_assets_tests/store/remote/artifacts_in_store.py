"""Artifacts of known bytes in a store; as a program, it makes them in one home, for another's use.

``python -m mdel_assets_tests.store.remote.artifacts_in_store ONE OTHER`` publishes and pushes them
all in the home ONE, and fetches them into the home OTHER.
"""

import functools
import random
import sys
from pathlib import Path

from mdel_assets.store.artifacts import RECORD_NAME, Artifact
from mdel_assets.store.records import Identity
from mdel_assets.store.remote.client import address_of
from mdel_assets.store.remote.object_store import RemotePlace, object_store

KEYS = ["a", "b", "c"]
# The second file is sent in several parts.
SIZES = {"config.json": 100, "weights.bin": (16 << 20) + 5, "deep/er/tokens.bin": 300_000}


def artifact_in(home: Path, key: str) -> Artifact:
    """Return the place of an artifact in a home and in the store of the environment."""
    folder = home / "tried" / "models" / key
    store = object_store(address_of(), home / "cache")
    return Artifact(
        "tried_model",
        key,
        "tried",
        folder,
        folder / RECORD_NAME,
        remedy="make it",
        work=home / "tried" / "work",
        remote=RemotePlace(store, f"tried/models/{key}/{RECORD_NAME}"),
    )


def identity_of(key: str, *, version: str = "1") -> Identity:
    return Identity("tried_model", key, "tried", version, {}, {})


@functools.cache
def content_of(key: str, name: str, *, version: str = "1") -> bytes:
    """Return the bytes of a file; two artifacts share one."""
    seed = (
        f"{name} {version}" if name == "weights.bin" and key != "a" else f"{key} {name} {version}"
    )
    return random.Random(seed).randbytes(SIZES[name])


def make(home: Path, key: str, *, version: str = "1"):
    """Publish an artifact in a home, as the line does it, and push it."""
    artifact, identity = artifact_in(home, key), identity_of(key, version=version)
    record = artifact.holds(identity.fingerprint)
    if record is None:
        with artifact.staging() as stage:
            for name in SIZES:
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                (stage / name).write_bytes(content_of(key, name, version=version))
            record = artifact.publish(stage, identity, making={"pace": key})
    if artifact.is_here(record):
        return artifact.push(record)
    return record


def main(one: str, other: str) -> None:
    for key in KEYS:
        make(Path(one), key)
        there = artifact_in(Path(other), key)
        there.remote.store.look_again()
        there.require()


if __name__ == "__main__":
    main(*sys.argv[1:])
