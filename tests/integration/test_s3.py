"""A study in an object store: an S3-compatible server over HTTP, and a connection to it that can be lost."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from advlab.errors import UserError
from advlab.store import Store, Study, exclusive, retry

SWEEP = Path(__file__).parents[2] / "sweeps" / "transfer_matrix.py"
STUDY = [
    "--models", "softmax1e-2,softmax1", "--controls", "gaussian-0.3,shuffled", "--examples", "40", "--shard-size", "10",
]  # fmt: skip
SHARDS = 4 * (2 + 5 * 2)


class Proxy:
    """Passes connections on to a server, answers every request by itself, or is down."""

    def __init__(self, server: int) -> None:
        self.server, self.passed = server, 0  # port, and bytes it was sent
        self._answer = b""
        self._open: list[socket.socket] = []
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.up()

    def up(self, answer: str = "") -> None:
        """Pass connections on from now on, or give this answer to all requests."""
        self._answer = answer and f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections from now on, and cut those that stand."""
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self._answer:
                client.recv(1 << 16)
                client.sendall(self._answer)
                return
            with socket.create_connection(("127.0.0.1", self.server)) as server:
                self._open += [client, server]
                back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
                back.start()
                self._pump(client, server)
                back.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 16):
                sink.sendall(content)
                self.passed += len(content) * (sink.getpeername()[1] == self.server)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module", autouse=True)
def credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "REGION": "us-east-1"}.items():
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    """An S3 server with an empty bucket named ``bucket``; its port is its last argument."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as printed, subprocess.Popen(command, stdout=printed, stderr=printed) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        try:
            assert process.poll() is None, log.read_text()
            bucket_maker, _ = pafs.FileSystem.from_uri(f"{uri(port)}&allow_bucket_creation=true")
            bucket_maker.create_dir("bucket")
            yield process
        finally:
            process.kill()


@pytest.fixture
def proxy(server: subprocess.Popen[bytes]) -> Iterator[Proxy]:
    proxy = Proxy(int(server.args[-1]))  # type: ignore[index]
    yield proxy
    proxy.down()


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PATIENCE", 0.0)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_seconds: float) -> None:
        pytest.fail("it is waited for what cannot change")

    monkeypatch.setattr(retry.time, "sleep", sleep)


def uri(port: int, folder: str = "bucket/studies/one") -> str:
    return f"s3://{folder}?scheme=http&endpoint_override={quote(f'127.0.0.1:{port}')}"


def table(rows: int = 1000) -> pa.Table:
    return pa.table({"index": np.arange(rows), "value": np.random.default_rng(0).random(rows)})


def test_everything_a_store_does(proxy: Proxy) -> None:
    store = Store(uri(proxy.port, "bucket/all"))
    store.require_writable()
    assert store.files() == store.temporary_files() == []
    assert not store.exists("study.json")
    assert store.key("absent.parquet") is None
    store.delete("absent")
    store.write_json("study.json", {"λ": 1})
    store.write_table("a/b=%3A/t.parquet", table(), key="k")
    store.write_table("a/large.parquet", table(1_500_000), key="l")  # in several parts
    assert store.exists("study.json")
    assert store.read_json("study.json") == {"λ": 1}
    assert store.files("a") == ["a/b=%3A/t.parquet", "a/large.parquet"]
    assert store.keys("a") == {"a/b=%3A/t.parquet": "k", "a/large.parquet": "l"}
    assert store.read_table("a/b=%3A/t.parquet", ["value"]).equals(table().select(["value"]))
    assert store.read_shard("a/large.parquet").equals(table(1_500_000))
    torn = store.read_bytes("a/large.parquet")[:-100]
    store.write_bytes("a/large.parquet", torn)
    assert store.key("a/large.parquet") is None
    with pytest.raises(UserError, match="is damaged and was not changed"):
        store.read_shard("a/large.parquet")
    with pytest.raises(UserError, match="was damaged and has been removed"):
        Store(store.uri, repairing=True).read_shard("a/large.parquet")
    assert store.files("a") == ["a/b=%3A/t.parquet"]


def test_a_failed_write_leaves_the_object_as_it_was(proxy: Proxy) -> None:
    store = Store(uri(proxy.port))
    store.write_bytes("file", b"before")
    with pytest.raises(TypeError):
        store.write_bytes("file", "text, not bytes")  # type: ignore[arg-type]
    assert store.read_bytes("file") == b"before"


@pytest.mark.usefixtures("no_patience")
def test_an_upload_that_is_cut_leaves_the_object_as_it_was(proxy: Proxy) -> None:
    store, content = Store(uri(proxy.port)), os.urandom(40_000_000)
    store.write_bytes("file", b"before")
    sent = proxy.passed

    def cut() -> None:
        while proxy.passed < sent + 15_000_000:
            time.sleep(0.001)
        proxy.down()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(OSError, match=r"unreachable for 0 s: .*NETWORK_CONNECTION"):
        store.write_bytes("file", content)
    cutter.join()
    proxy.up()
    assert store.read_bytes("file") == b"before"
    store.write_bytes("file", content)
    assert store.read_bytes("file") == content


@pytest.mark.parametrize(("fault", "writing"), [("refused", False), ("503 Slow Down", True)])
def test_an_outage_longer_than_pyarrow_waits_is_sat_out(
    fault: str, writing: bool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(uri(proxy.port, "bucket/outage"))
    store.write_table("t.parquet", table(), key="k")
    told = []

    def mend(message: str, *values: object) -> None:
        told.append(message % values)
        proxy.down()
        proxy.up()

    monkeypatch.setattr(retry.logger, "warning", mend)  # that is when PyArrow has given up
    proxy.down()
    if fault != "refused":
        proxy.up(fault)
    if writing:
        store.write_table("t.parquet", table(), key="l")
    assert store.keys("") == {"t.parquet": "l" if writing else "k"}
    (text,) = told
    assert text.startswith(f"{store.uri} is unreachable (")


@pytest.mark.usefixtures("no_waiting")
def test_what_cannot_change_is_reported_at_once(proxy: Proxy) -> None:
    with pytest.raises(UserError, match=r"cannot be written \(.*NO_SUCH_BUCKET.*\); choose a folder you may write to"):
        Store(uri(proxy.port, "nowhere/study")).require_writable()
    store = Store(uri(proxy.port))
    store.write_table("t.parquet", table(), key="k")
    proxy.down()
    proxy.up("403 Forbidden")
    with pytest.raises(UserError, match=r"cannot be written \(.*ACCESS_DENIED"):
        store.require_writable()
    for operation in (store.exists, store.key, store.read_shard, store.read_bytes, store.read_table, store.keys):
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            operation("t.parquet")
    proxy.down()
    proxy.up()
    assert store.key("t.parquet") == "k"  # what could not be read was not taken for damaged


def study(out: str) -> list[str]:
    return [sys.executable, str(SWEEP), *STUDY, "--out", out]


def verdict(out: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "advlab.results", "verify", out], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The study on the local disk."""
    out = str(tmp_path_factory.mktemp("local") / "out")
    done = subprocess.run(study(out), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return Store(out)


def assert_same_rows(found: Store, expected: Store) -> None:
    names = expected.files(suffix=".parquet")
    assert len(names) == SHARDS + 1
    assert found.files(suffix=".parquet") == names
    for name in names:
        assert found.read_table(name).equals(expected.read_table(name)), name


@pytest.mark.slow
def test_one_of_several_studies_begins(server: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """The claims of `advlab.store.exclusive`, by the lists of a server and its clock."""
    monkeypatch.setattr(exclusive, "_PAUSE", 0.05)
    port, barrier = int(server.args[-1]), threading.Barrier(4)  # type: ignore[index]

    def begin(seed: int, folder: str) -> str:
        barrier.wait()
        try:
            Study.begin("units", {"seed": seed}, folder)
        except UserError as error:
            assert "holds another study (its seed is" in str(error)  # noqa: PT017
            return "refused"
        return "begun"

    with ThreadPoolExecutor(4) as threads:
        for number in range(10):
            folder = uri(port, f"bucket/claims/{number}")
            told = Counter(threads.map(begin, range(4), [folder] * 4))
            assert told == {"begun": 1, "refused": 3}
            assert Store(folder).files() == ["study.json"]
            assert Store(folder).temporary_files() == []


@pytest.mark.slow
def test_the_claim_of_a_killed_command_expires(
    server: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusive, "EXPIRY", 3.0)
    store = Store(uri(int(server.args[-1]), "bucket/claims/killed"))  # type: ignore[index]
    store.write_bytes(".study.json.0.tmp", b"")  # its name comes first
    assert store.create_json("study.json", {"seed": 0})
    assert not store.create_json("study.json", {"seed": 1})
    assert store.read_json("study.json") == {"seed": 0}
    assert store.temporary_files() == []


@pytest.mark.slow
def test_a_study_in_a_bucket_equals_the_local_one(local: Store, proxy: Proxy) -> None:
    out = uri(proxy.port, "bucket/undisturbed")
    done = subprocess.run(study(out), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert verdict(out) == "sound: 5 sources × 2 targets"
    assert_same_rows(Store(out), local)


@pytest.mark.slow
def test_losing_the_endpoint_for_twenty_seconds_fails_nothing(local: Store, proxy: Proxy) -> None:
    out = uri(proxy.port, "bucket/disturbed")
    direct = Store(uri(proxy.server, "bucket/disturbed"))
    with subprocess.Popen(study(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while len(direct.files(suffix=".parquet")) < 10:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        proxy.down()
        held = direct.files(suffix=".parquet")
        time.sleep(20)
        assert direct.files(suffix=".parquet") == held
        proxy.up()
        _, printed = process.communicate(timeout=300)
    assert 10 <= len(held) < SHARDS
    assert process.returncode == 0, printed
    assert verdict(out) == "sound: 5 sources × 2 targets"
    assert_same_rows(Store(out), local)
