"""The test server itself, asked by the unmodified client: it must refuse what the Hub refuses."""

import hashlib
import os
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from mdel_assets_tests.publishing.conftest import OWNER, READER, TOKEN
from mdel_assets_tests.publishing.hub_faults import CUT_ANSWER, CUT_REQUEST, Fault
from mdel_assets_tests.publishing.hub_server import HubServer

REPO = f"{OWNER}/model"
CONTENT = os.urandom(50_000)


@pytest.fixture
def api(hub):
    found = HfApi(endpoint=hub.endpoint, token=TOKEN)
    found.create_repo(REPO, private=True)
    return found


def commit(api, files, **options):
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    return api.create_commit(REPO, operations, commit_message="a commit", **options).oid


def download(hub, tmp_path, name, *, token=TOKEN, revision=None):
    path = hf_hub_download(
        REPO,
        name,
        revision=revision,
        endpoint=hub.endpoint,
        token=token or False,
        cache_dir=tmp_path / "cache",
    )
    return Path(path).read_bytes()


def test_small_and_large_files_come_back_as_they_were_sent(api, hub, tmp_path):
    files = {"model.safetensors": CONTENT, "config.json": b"{}", "deep/er/note.txt": b"hello"}
    oid = commit(api, files)
    assert api.repo_info(REPO).sha == oid
    assert {name: download(hub, tmp_path, name) for name in files} == files
    (large,) = [e for e in api.list_repo_tree(REPO) if e.path == "model.safetensors"]
    assert large.lfs.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert hub.tokens_at_storage == []


def test_a_file_in_parts_is_put_together(tmp_path):
    with HubServer(tmp_path / "server", part_bytes=16_000, page_size=2) as hub:
        hub.state.add_account(TOKEN, "alice", organizations=[OWNER])
        api = HfApi(endpoint=hub.endpoint, token=TOKEN)
        api.create_repo(REPO)
        commit(api, {"model.safetensors": CONTENT, **{f"{n}.txt": b"%d" % n for n in range(5)}})
        assert len([path for path in hub.paths("PUT") if path.startswith("/parts/")]) == 4
        assert hub.state.read("models", REPO)["model.safetensors"] == CONTENT
        assert len(api.list_repo_files(REPO)) == 7  # in pages of two


def test_what_it_keeps_outlives_it(api, hub, tmp_path):
    oid = commit(api, {"config.json": b"{}"})
    with HubServer(hub.state.root) as again:
        assert HfApi(endpoint=again.endpoint, token=TOKEN).repo_info(REPO).sha == oid


def test_writing_needs_a_token_that_may_write_and_private_reading_one_that_may_read(api, hub):
    commit(api, {"config.json": b"{}"})
    stranger = HfApi(endpoint=hub.endpoint, token=False)
    with pytest.raises(RepositoryNotFoundError):
        stranger.repo_info(REPO)
    reader = HfApi(endpoint=hub.endpoint, token=READER)
    assert reader.repo_info(REPO).private
    with pytest.raises(HfHubHTTPError, match="403"):
        commit(reader, {"config.json": b"[]"})
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(endpoint=hub.endpoint, token="hf_wrong").create_repo(f"{OWNER}/other")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("someone-else/model")


def test_a_repository_that_is_there_and_a_parent_that_is_not_the_head_are_conflicts(api):
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    api.create_repo(REPO, exist_ok=True)
    first = commit(api, {"config.json": b"{}"})
    commit(api, {"config.json": b"[]"}, parent_commit=first)
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(api, {"config.json": b"{1}"}, parent_commit=first)


def test_a_content_that_is_not_its_sha256_is_refused(api, hub):
    promised = hashlib.sha256(CONTENT).hexdigest()
    batch = {
        "operation": "upload",
        "hash_algo": "sha256",
        "objects": [{"oid": promised, "size": len(CONTENT)}],
    }
    address = f"{hub.endpoint}/{REPO}.git/info/lfs/objects"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = httpx2.post(f"{address}/batch", json=batch, headers=headers).json()
    upload = answer["objects"][0]["actions"]["upload"]["href"]
    assert httpx2.put(upload, content=CONTENT[:-1]).status_code == 400
    assert httpx2.put(upload.split("?")[0], content=CONTENT).status_code == 403
    verify = httpx2.post(f"{address}/verify", json=batch["objects"][0], headers=headers)
    assert verify.status_code == 404
    line = f'{{"key": "lfsFile", "value": {{"path": "a", "oid": "{promised}", "size": 1}}}}'
    header = '{"key": "header", "value": {"summary": "x"}}'
    sent = httpx2.post(
        f"{hub.endpoint}/api/models/{REPO}/commit/main",
        content=f"{header}\n{line}\n",
        headers=headers,
    )
    assert sent.status_code == 404


def test_a_part_of_a_file_can_be_asked_for(api, hub):
    commit(api, {"config.json": b"0123456789", "model.safetensors": CONTENT})
    for name, content in (("config.json", b"0123456789"), ("model.safetensors", CONTENT)):
        url, headers = f"{hub.endpoint}/{REPO}/resolve/main/{name}", {"Range": "bytes=3-6"}
        headers["Authorization"] = f"Bearer {TOKEN}"
        answer = httpx2.get(url, headers=headers, follow_redirects=True)
        assert (answer.status_code, answer.content) == (206, content[3:7])
        assert answer.headers["Content-Range"] == f"bytes 3-6/{len(content)}"


def test_a_file_is_deleted_and_a_revision_that_never_was_is_none(api):
    before = commit(api, {"a.txt": b"a", "b.txt": b"b"})
    api.create_commit(REPO, [CommitOperationDelete("a.txt")], commit_message="less")
    assert api.list_repo_files(REPO) == [".gitattributes", "b.txt"]
    assert "a.txt" in api.list_repo_files(REPO, revision=before)
    with pytest.raises(RevisionNotFoundError):
        api.repo_info(REPO, revision="f" * 40)


def test_planned_faults_happen_as_often_as_planned(api, hub):
    hub.faults.plan("GET", "/api/models", Fault("error", status=429, retry_after=7))
    with pytest.raises(HfHubHTTPError) as error:
        api.repo_info(REPO)
    assert error.value.response.headers["Retry-After"] == "7"
    api.repo_info(REPO)
    for kind in (CUT_REQUEST, CUT_ANSWER):
        hub.faults.plan("POST", "/commit/", Fault(kind))
        with pytest.raises(Exception, match=r"disconnected|reset|closed|incomplete|Broken pipe"):
            commit(api, {f"{kind}.txt": kind.encode()})
    # An answer that was cut had been worked for; a request that was cut had not.
    assert api.list_repo_files(REPO) == [".gitattributes", "cut answer.txt"]
