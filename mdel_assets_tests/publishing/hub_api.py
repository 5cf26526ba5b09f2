"""What a test server answers: the Hub's endpoints that publishing, loading and streaming use.

One `HubApi` answers one request. The addresses and fields are those that `huggingface_hub` 2 asks
for and reads; who may do what is decided as the Hub decides it.
"""

import base64
import json
import re
import urllib.parse

import yaml

from mdel_assets_tests.publishing.hub_state import (
    LARGE_SUFFIXES,
    MAX_REGULAR_BYTES,
    RefusedError,
    git_sha1,
    pointer_of,
)
from mdel_assets_tests.publishing.hub_storage import STORAGE_ROUTES, HubStorage

_DATE = "2026-01-01T00:00:00.000Z"
_REPOSITORY = r"(?P<kind>models|datasets)/(?P<repo>[\w.-]+/[\w.-]+)"
_PREFIXED = r"/(?P<prefix>datasets/)?(?P<repo>[\w.-]+/[\w.-]+?)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", r"/api/repos/create", "create"),
    ("DELETE", r"/api/repos/delete", "delete"),
    ("GET", rf"/api/{_REPOSITORY}(/revision/(?P<revision>.+))?", "info"),
    ("GET", rf"/api/{_REPOSITORY}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", "tree"),
    ("GET", rf"/api/{_REPOSITORY}/commits/(?P<revision>.+)", "commits"),
    ("GET", rf"/api/{_REPOSITORY}/refs", "refs"),
    ("POST", rf"/api/{_REPOSITORY}/paths-info/(?P<revision>.+)", "paths_info"),
    ("POST", rf"/api/{_REPOSITORY}/preupload/(?P<revision>.+)", "preupload"),
    ("POST", rf"/api/{_REPOSITORY}/commit/(?P<revision>.+)", "commit"),
    ("POST", rf"{_PREFIXED}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("POST", rf"{_PREFIXED}\.git/info/lfs/objects/verify", "lfs_verify"),
    ("GET", rf"{_PREFIXED}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ("HEAD", rf"{_PREFIXED}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


class HubApi(HubStorage):
    """Answers one request."""

    def answer(self, method, path, is_storage):
        for wanted, pattern, name in STORAGE_ROUTES if is_storage else _ROUTES:
            if method == wanted and (match := re.fullmatch(pattern, path)):
                getattr(self, name)(**_named(match.groupdict()))
                return
        raise RefusedError(404, f"there is no {method} {path}")

    # Who asks

    @property
    def account(self):
        given = self.handler.headers.get("Authorization")
        if not given:
            return None
        account = self.state.accounts.get(given.removeprefix("Bearer "))
        if account is None:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return account

    def readable(self, kind, repo):
        """Return a repository that the caller may read; any other looks as if it were not there."""
        repository, account = self.state.repository(kind, repo), self.account
        owner = repo.split("/")[0]
        if not repository.exists() or (
            repository.settings()["private"] and not (account and account.reads(owner))
        ):
            status = 404 if account else 401
            raise RefusedError(status, "Repository not found", code="RepoNotFound")
        return repository

    def writable(self, kind, repo):
        if self.account is None:
            raise RefusedError(401, "Invalid username or password.")
        repository = self.readable(kind, repo)
        if not self.account.writes_to(repo.split("/")[0]):
            raise RefusedError(403, f"You don't have the rights to write to {repo}")
        return repository

    # The API

    def whoami(self):
        account = self.account
        if account is None:
            raise RefusedError(401, "Invalid username or password.")
        organizations = [{"name": name, "type": "org"} for name in account.organizations]
        self.send({"type": "user", "name": account.name, "orgs": organizations})

    def validate_yaml(self):
        content = self.json()["content"]
        front = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        problem = None
        try:
            metadata = yaml.safe_load(front[1]) if front else {}
            if not isinstance(metadata, dict):
                problem = "the metadata is not a mapping"
            elif not isinstance(metadata.get("license", ""), str):
                problem = "license must be a string"
        except yaml.YAMLError as error:
            problem = str(error)
        if problem:
            self.send({"errors": [{"message": problem}], "warnings": []}, 400)
        else:
            empty = [] if front else [{"message": "empty or missing yaml metadata in repo card"}]
            self.send({"errors": [], "warnings": empty})

    def create(self):
        wanted = self.json()
        account = self.account
        if account is None:
            raise RefusedError(401, "Invalid username or password.")
        owner = wanted.get("organization") or account.name
        kind = wanted.get("type", "model") + "s"
        repo = f"{owner}/{wanted['name']}"
        if not account.writes_to(owner):
            raise RefusedError(403, f"You don't have the rights to create a {kind} under {owner}")
        url = f"{self.hub.endpoint}/{'datasets/' if kind == 'datasets' else ''}{repo}"
        try:
            self.state.create(kind, repo, private=wanted.get("visibility") == "private")
        except RefusedError as refusal:
            refusal.extra["url"] = url
            raise
        self.send({"url": url, "name": repo, "id": repo})

    def delete(self):
        wanted = self.json()
        kind = wanted.get("type", "model") + "s"
        repository = self.writable(kind, f"{wanted['organization']}/{wanted['name']}")
        (repository.folder / "repository.json").unlink()
        self.send({})

    def info(self, kind, repo, revision="main"):
        repository = self.readable(kind, repo)
        oid = repository.resolve(revision)
        files = repository.commit(oid)["files"]
        siblings = [{"rfilename": name} for name in sorted(files)]
        if self.query.get("blobs"):
            siblings = [
                {"rfilename": name, "size": entry["size"], "blobId": entry["oid"]}
                for name, entry in sorted(files.items())
            ]
        self.send(
            {
                "_id": oid[:24],
                "id": repo,
                "author": repo.split("/")[0],
                "sha": oid,
                "private": repository.settings()["private"],
                "gated": False,
                "disabled": False,
                "lastModified": _DATE,
                "createdAt": _DATE,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": siblings,
            }
        )

    def tree(self, kind, repo, revision, folder=""):
        repository = self.readable(kind, repo)
        files = repository.commit(repository.resolve(revision))["files"]
        inside = f"{folder}/" if folder else ""
        entries = {}
        for name, entry in sorted(files.items()):
            if not name.startswith(inside):
                continue
            first, _, rest = name.removeprefix(inside).partition("/")
            if rest:
                path = inside + first
                entries[path] = {"type": "directory", "oid": git_sha1(path.encode()), "path": path}
                entries[path]["size"] = 0
            if not rest or self.query.get("recursive", "").lower() == "true":
                entries[name] = _tree_entry(name, entry)
        if folder and not entries:
            raise RefusedError(404, f"{folder} does not exist on {revision}", code="EntryNotFound")
        self._send_page(list(entries.values()), f"/api/{kind}/{repo}/tree/{revision}")

    def _send_page(self, rows, path):
        start, size = int(self.query.get("cursor", 0)), self.hub.page_size
        headers = {}
        if start + size < len(rows):
            query = urllib.parse.urlencode({**self.query, "cursor": start + size})
            headers["Link"] = f'<{self.hub.endpoint}{path}?{query}>; rel="next"'
        self.send(rows[start : start + size], headers=headers)

    def commits(self, kind, repo, revision):
        history = self.readable(kind, repo).history(revision)
        rows = [
            {"id": oid, "title": commit["message"], "message": "", "authors": [], "date": _DATE}
            for oid, commit in history
        ]
        self._send_page(rows, f"/api/{kind}/{repo}/commits/{revision}")

    def refs(self, kind, repo):
        branches = self.readable(kind, repo).settings()["branches"]
        rows = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
            for name, oid in branches.items()
        ]
        self.send({"branches": rows, "converts": [], "tags": []})

    def paths_info(self, kind, repo, revision):
        repository = self.readable(kind, repo)
        files = repository.commit(repository.resolve(revision))["files"]
        form = urllib.parse.parse_qs(self.body.decode())
        found = []
        for path in form.get("paths", []):
            if path in files:
                found.append(_tree_entry(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                found.append({"type": "directory", "oid": git_sha1(path.encode()), "path": path})
        self.send(found)

    def preupload(self, kind, repo, revision):
        repository = self.writable(kind, repo)
        files = repository.commit(repository.resolve(revision))["files"]
        rows = []
        for file in self.json()["files"]:
            sample = base64.b64decode(file["sample"])
            is_large = (
                file["path"].endswith(LARGE_SUFFIXES)
                or file["size"] > MAX_REGULAR_BYTES
                or b"\0" in sample
            )
            there = files.get(file["path"])
            row = {"path": file["path"], "shouldIgnore": False}
            row["uploadMode"] = "lfs" if is_large else "regular"
            if there:
                row["oid"] = there["sha256"] or there["oid"]
            rows.append(row)
        self.send({"files": rows})

    def commit(self, kind, repo, revision):
        repository = self.writable(kind, repo)
        lines = [json.loads(line) for line in self.body.splitlines() if line]
        if lines[0]["key"] != "header":
            raise RefusedError(400, "the first line is not the header")
        header, operations = lines[0]["value"], lines[1:]
        with self.state.lock:
            head = repository.resolve(revision)
            parent = header.get("parentCommit")
            if parent and parent != head:
                raise RefusedError(412, f"A commit has happened since {parent}. Please refresh.")
            files = dict(repository.commit(head)["files"])
            for operation in operations:
                self._apply(operation["key"], operation["value"], files)
            if not header.get("summary"):
                raise RefusedError(400, "a commit needs a summary")
            oid = repository.append(revision, parent=head, message=header["summary"], files=files)
        prefix = "datasets/" if kind == "datasets" else ""
        url = f"{self.hub.endpoint}/{prefix}{repo}/commit/{oid}"
        self.send({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def _apply(self, key, value, files):
        if key == "file":
            content = base64.b64decode(value["content"], validate=True)
            if len(content) > MAX_REGULAR_BYTES:
                raise RefusedError(413, f"{value['path']} must be stored as a large file")
            files[value["path"]] = self.state.put_blob(content)
        elif key == "lfsFile":
            oid, size = value["oid"], value["size"]
            self.state.require_object(oid, size)
            git_oid = git_sha1(pointer_of(oid, size))
            files[value["path"]] = {"size": size, "oid": git_oid, "sha256": oid}
        elif key == "deletedFile":
            if value["path"] not in files:
                message = f"A file with this name doesn't exist: {value['path']}"
                raise RefusedError(404, message, code="EntryNotFound")
            del files[value["path"]]
        else:
            raise RefusedError(400, f"unknown operation {key}")

    # Large files

    def lfs_batch(self, repo, prefix=None):
        self.writable("datasets" if prefix else "models", repo)
        wanted = self.json()
        if wanted["operation"] != "upload" or wanted["hash_algo"] != "sha256":
            raise RefusedError(422, "only uploads under a sha256")
        objects = [self._upload(repo, prefix, entry) for entry in wanted["objects"]]
        uses_parts = any("chunk_size" in str(entry) for entry in objects)
        self.send({"transfer": "multipart" if uses_parts else "basic", "objects": objects})

    def _upload(self, repo, prefix, entry):
        sha256, size = entry["oid"], entry["size"]
        if self.state.object_path(sha256).exists():
            return {"oid": sha256, "size": size}
        verify = f"{self.hub.endpoint}/{prefix or ''}{repo}.git/info/lfs/objects/verify"
        part = self.hub.part_bytes
        if part and size > part:
            count = -(-size // part)
            header = {"chunk_size": str(part)}
            header |= {
                str(number): self.signed("PUT", f"/parts/{sha256}/{number}")
                for number in range(1, count + 1)
            }
            upload = {"href": self.signed("POST", f"/parts/{sha256}"), "header": header}
        else:
            upload = {"href": self.signed("PUT", f"/objects/{sha256}")}
        actions = {"upload": upload, "verify": {"href": verify}}
        return {"oid": sha256, "size": size, "actions": actions}

    def lfs_verify(self, repo, prefix=None):
        self.writable("datasets" if prefix else "models", repo)
        wanted = self.json()
        self.state.require_object(wanted["oid"], wanted["size"])
        self.send({})

    def resolve(self, repo, revision, path, prefix=None):
        repository = self.readable("datasets" if prefix else "models", repo)
        oid = repository.resolve(revision)
        entry = repository.commit(oid)["files"].get(path)
        headers = {"X-Repo-Commit": oid}
        if entry is None:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self.send(b"Entry not found", 404, headers=headers)
            return
        if entry["sha256"]:
            headers |= {
                "X-Linked-Etag": f'"{entry["sha256"]}"',
                "X-Linked-Size": str(entry["size"]),
                "Location": self.signed("GET", f"/objects/{entry['sha256']}"),
            }
            self.send(b"", 302, headers=headers)
            return
        headers["ETag"] = f'"{entry["oid"]}"'
        self.handler.send_content(self.state.content_path(entry), headers)


def _named(groups):
    """Return what a route's pattern found; groups that took no part are left out."""
    return {name: value for name, value in groups.items() if value is not None}


def _tree_entry(name, entry):
    row = {"type": "file", "oid": entry["oid"], "size": entry["size"], "path": name}
    if entry["sha256"]:
        pointer = pointer_of(entry["sha256"], entry["size"])
        row["lfs"] = {
            "oid": entry["sha256"],
            "size": entry["size"],
            "pointerSize": len(pointer),
        }
    return row
