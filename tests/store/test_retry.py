"""Retries: for transient errors only."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from advlab.store import retry

AWAY = "When reading 'x': AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 7, Could not connect"


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits; the clock goes on by them alone."""
    waits: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    monkeypatch.setattr(retry.time, "monotonic", lambda: sum(waits))
    return waits


def failing(times: int, message: str) -> Callable[[], str]:
    left = [OSError(message)] * times

    def operation() -> str:
        if left:
            raise left.pop()
        return "done"

    return operation


@pytest.mark.parametrize(
    "message",
    [
        AWAY,
        "AWS Error SLOW_DOWN during PutObject operation",
        "AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body.",
        "AWS Error SERVICE_UNAVAILABLE during ListObjectsV2 operation",
        "AWS Error NO_SUCH_UPLOAD during CompleteMultipartUpload operation",
        "google::cloud::Status(UNAVAILABLE: Retry policy exhausted in ReadObject)",
    ],
)
def test_what_may_pass_is_waited_for(message: str, slept: list[float], caplog: pytest.LogCaptureFixture) -> None:
    assert retry.persist(failing(5, message), "s3://b/study") == "done"
    assert len(slept) == 5
    assert slept == sorted(slept) or max(slept) <= 8
    assert [record.message.split(" (")[0] for record in caplog.records] == ["s3://b/study is unreachable"]


@pytest.mark.parametrize(
    "message",
    [
        "AWS Error ACCESS_DENIED during HeadObject operation: No response body.",
        "AWS Error NO_SUCH_BUCKET during PutObject operation: The specified bucket does not exist",
        "AWS Error UNKNOWN (HTTP status 400) during PutObject operation",
        "Couldn't deserialize thrift: TProtocolException: Invalid data",
        "[Errno 28] No space left on device",
    ],
)
def test_what_cannot_pass_is_reported_at_once(message: str, slept: list[float]) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        retry.persist(failing(1, message), "s3://b/study")
    assert str(caught.value) == message
    assert not slept


def test_patience_ends(slept: list[float]) -> None:
    with pytest.raises(OSError, match=r"^s3://b/study has been unreachable for 120 s: When reading .*curlCode: 7"):
        retry.persist(failing(10**6, AWAY), "s3://b/study")
    assert 120 <= sum(slept) <= 128
    assert max(slept) <= 8
