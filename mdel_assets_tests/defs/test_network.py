"""Steps that are repeated where the network failed, and at once refused where the user erred."""

import time

import dagster as dg
import httpx2
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from mdel_assets.data.fetch import fetch_shard
from mdel_assets.defs.network import STEP_RETRIES, retrying_transient_errors
from mdel_assets.errors import FetchError, HubError, transient
from mdel_assets.hub.retries import RetryPolicy, with_retries

AT_ONCE = RetryPolicy(num_attempts=3, first_wait_seconds=0.0)


def run_step(errors):
    """Run an asset that raises ``errors`` one after the other; return success and attempts."""
    left = list(errors)
    attempts = []

    @dg.asset
    def fetched(context: dg.AssetExecutionContext) -> None:
        attempts.append(context.retry_number)
        with retrying_transient_errors(context, AT_ONCE):
            if left:
                raise left.pop(0)

    result = dg.materialize([fetched], raise_on_error=False)
    return result, attempts


def test_a_step_whose_server_recovers_is_repeated_until_it_succeeds():
    busy = [transient(FetchError("busy")) for _ in range(2)]
    result, attempts = run_step(busy)
    assert result.success
    assert attempts == [0, 1, 2]


def test_a_step_whose_server_stays_away_fails_with_its_own_message():
    busy = [transient(FetchError(f"busy {number}")) for number in range(5)]
    result, attempts = run_step(busy)
    assert not result.success
    assert attempts == [0, 1, 2]
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "busy 2" in failure.step_failure_data.error.cause.message


def test_a_mistake_is_not_repeated():
    result, attempts = run_step([FetchError("404: no such file")])
    assert not result.success
    assert attempts == [0]


def test_what_asking_again_cannot_mend_is_not_marked_and_what_it_can_is(tmp_path):
    def broken_line():
        raise httpx2.ConnectError("no route")

    with pytest.raises(HubError) as caught:
        with_retries(
            broken_line,
            what="asking",
            retries=RetryPolicy(num_attempts=2, first_wait_seconds=0.0),
        )
    assert caught.value.is_transient
    with pytest.raises(FetchError) as caught:
        fetch_shard(str(tmp_path / "none"), folder=tmp_path, partial_folder=tmp_path / "partial")
    assert not caught.value.is_transient


def xet_group(begin):
    """Return a group of transfers whose server is not there."""
    until = int(time.time()) + 3600
    return begin(endpoint="http://127.0.0.1:9", token="x", token_expiry_unix_secs=until)


def test_a_line_that_breaks_in_xet_is_one_that_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "1")
    hf_xet = pytest.importorskip("hf_xet")
    session = hf_xet.XetSession()

    def fetch():
        with xet_group(session.new_file_download_group) as group:
            group.start_download_file(hf_xet.XetFileInfo("a" * 64, 1000), str(tmp_path / "file"))

    def send():
        with xet_group(session.new_upload_commit) as commit:
            commit.start_upload_bytes(b"x" * 100_000, hf_xet.COMPUTE_SHA256)

    for transfer in (fetch, send):
        with pytest.raises(HubError, match="run the same command again") as caught:
            with_retries(transfer, what="asking", retries=RetryPolicy(num_attempts=1))
        assert caught.value.is_transient


def test_offline_mode_is_not_asked_again():
    def refuse():
        raise OfflineModeIsEnabled("offline mode is enabled")

    with pytest.raises(OfflineModeIsEnabled):
        with_retries(refuse, what="asking", retries=RetryPolicy(num_attempts=1))


def test_waits_double_and_vary():
    waits = [[STEP_RETRIES.wait_seconds(attempt, None) for _ in range(50)] for attempt in (1, 2, 3)]
    for drawn, longest in zip(waits, (20.0, 40.0, 80.0), strict=True):
        assert longest / 2 <= min(drawn) < max(drawn) <= longest
