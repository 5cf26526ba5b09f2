"""What a test server of the Hub's protocol keeps: repositories, commits and contents, on disk.

    accounts.json                    token -> name, organisations, role
    repositories/<kind>/<owner>/<name>/repository.json   private, branches
    repositories/<kind>/<owner>/<name>/<commit>.json     parent, message, files
    objects/<sha256>                 contents of large files
    blobs/<git sha1>                 contents of small files

A file of a commit is ``{"size", "oid", "sha256"}``: the git object of the file or of its pointer,
and the sha256 of a large file's content. Everything given under a digest is checked against it.
"""

import dataclasses
import hashlib
import json
import re
import threading
from pathlib import Path

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
LARGE_SUFFIXES = (".safetensors", ".parquet", ".bin", ".png", ".zst", ".gguf")
MAX_REGULAR_BYTES = 10 * 2**20
GIT_ATTRIBUTES = b"".join(
    f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n".encode() for suffix in LARGE_SUFFIXES
)


class RefusedError(Exception):
    """A request that the Hub would refuse."""

    def __init__(self, status, message, *, code=None, extra=None):
        super().__init__(message)
        self.status, self.message, self.code, self.extra = status, message, code, extra or {}


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer_of(oid, size):
    return POINTER.format(oid=oid, size=size).encode()


@dataclasses.dataclass(frozen=True)
class Account:
    name: str
    organizations: tuple[str, ...] = ()
    role: str = "write"

    def writes_to(self, owner):
        return self.role == "write" and owner in (self.name, *self.organizations)

    def reads(self, owner):
        return owner in (self.name, *self.organizations)


class Repository:
    """One repository's branches and commits."""

    def __init__(self, folder):
        self.folder = folder

    def exists(self):
        return (self.folder / "repository.json").exists()

    def settings(self):
        return json.loads((self.folder / "repository.json").read_text())

    def write_settings(self, settings):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "repository.json").write_text(json.dumps(settings))

    def resolve(self, revision):
        branches = self.settings()["branches"]
        if revision in branches:
            return branches[revision]
        if re.fullmatch(r"[0-9a-f]{40}", revision) and (self.folder / f"{revision}.json").exists():
            return revision
        raise RefusedError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")

    def commit(self, oid):
        return json.loads((self.folder / f"{oid}.json").read_text())

    def history(self, revision="main"):
        """Return commits from the newest to the first, as (oid, commit)."""
        found, oid = [], self.resolve(revision)
        while oid:
            commit = self.commit(oid)
            found.append((oid, commit))
            oid = commit["parent"]
        return found

    def append(self, branch, *, parent, message, files):
        content = {"parent": parent, "message": message, "files": files}
        text = json.dumps(content, sort_keys=True)
        oid = hashlib.sha1(text.encode()).hexdigest()
        (self.folder / f"{oid}.json").write_text(text)
        settings = self.settings()
        settings["branches"][branch] = oid
        self.write_settings(settings)
        return oid


class HubState:
    """All repositories and contents under one folder."""

    def __init__(self, root):
        self.root = Path(root)
        self.lock = threading.RLock()
        for name in ("objects", "blobs", "parts"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @property
    def accounts(self):
        path = self.root / "accounts.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        return {
            token: Account(entry["name"], tuple(entry["organizations"]), entry["role"])
            for token, entry in content.items()
        }

    def add_account(self, token, name, *, organizations=(), role="write"):
        path = self.root / "accounts.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        content[token] = {"name": name, "organizations": list(organizations), "role": role}
        path.write_text(json.dumps(content))

    def repository(self, kind, repo_id):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
            raise RefusedError(400, f"Invalid repo id {repo_id}")
        return Repository(self.root / "repositories" / kind / repo_id)

    def repositories(self):
        """Return (kind, id) of every repository."""
        found = (self.root / "repositories").glob("*/*/*/repository.json")
        return sorted((p.parts[-4], f"{p.parts[-3]}/{p.parts[-2]}") for p in found)

    def create(self, kind, repo_id, *, private):
        with self.lock:
            repository = self.repository(kind, repo_id)
            if repository.exists():
                raise RefusedError(409, f"You already created this {kind} repo: {repo_id}")
            repository.write_settings({"private": private, "branches": {}})
            first = {".gitattributes": self.put_blob(GIT_ATTRIBUTES)}
            repository.append("main", parent=None, message="initial commit", files=first)
            return repository

    def put_blob(self, content):
        oid = git_sha1(content)
        (self.root / "blobs" / oid).write_bytes(content)
        return {"size": len(content), "oid": oid, "sha256": None}

    def object_path(self, sha256):
        return self.root / "objects" / sha256

    def put_object(self, sha256, path):
        """Take in a large file's content that lies at ``path``."""
        seen = hashlib.sha256(path.read_bytes()).hexdigest()
        if seen != sha256:
            path.unlink()
            raise RefusedError(400, f"sha256 is {seen}, promised {sha256}")
        path.rename(self.object_path(sha256))

    def require_object(self, sha256, size):
        path = self.object_path(sha256)
        if not path.exists():
            raise RefusedError(404, f"there is no object {sha256}")
        seen = hashlib.sha256(path.read_bytes()).hexdigest()
        if seen != sha256 or (size is not None and path.stat().st_size != size):
            raise RefusedError(422, f"object {sha256} has {path.stat().st_size} bytes, not {size}")

    def content_path(self, entry):
        if entry["sha256"]:
            return self.object_path(entry["sha256"])
        return self.root / "blobs" / entry["oid"]

    def read(self, kind, repo_id, revision="main"):
        """Return every file's content of one revision, for tests to look at."""
        repository = self.repository(kind, repo_id)
        files = repository.commit(repository.resolve(revision))["files"]
        return {name: self.content_path(entry).read_bytes() for name, entry in files.items()}
