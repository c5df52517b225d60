"""Files are written whole or not at all, and damage is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from advlab.errors import UserError
from advlab.store import Store

WRITER = """
import sys
from advlab.results import Store

store = Store(sys.argv[1])
for number in range(200):
    store.write_bytes("sub/file", bytes([number]) * (1 + 50_000 * (number % 3)))
"""


def table(rows: int = 5000) -> pa.Table:
    generator = np.random.default_rng(0)
    return pa.table({"index": np.arange(rows), "value": generator.random(rows)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "study")


def test_bytes_json_and_tables_come_back(store: Store) -> None:
    store.write_bytes("a/b/c.bin", b"\0content\xff")
    assert store.read_bytes("a/b/c.bin") == b"\0content\xff"
    value = {"list": [1, 2.5, None], "text": "λ", "nested": {"z": True, "a": False}}
    store.write_json("study.json", value)
    assert store.read_json("study.json") == value
    assert list(store.read_json("study.json")["nested"]) == ["z", "a"]
    store.write_table("t.parquet", table(), key="k")
    assert store.read_table("t.parquet").equals(table())
    assert store.read_table("t.parquet", ["value"]).column_names == ["value"]


def test_a_table_keeps_its_own_metadata_beside_the_address(store: Store) -> None:
    store.write_table("t.parquet", table().replace_schema_metadata({b"mine": b"kept"}), key="k")
    assert store.read_table("t.parquet").schema.metadata[b"mine"] == b"kept"
    assert store.holds("t.parquet", "k")


def test_writing_again_replaces(store: Store) -> None:
    store.write_bytes("file", b"long content")
    store.write_bytes("file", b"short")
    assert store.read_bytes("file") == b"short"
    assert os.listdir(store.root) == ["file"]


def test_a_reader_in_another_process_never_sees_half_a_file(store: Store) -> None:
    store.write_bytes("sub/file", b"\xff")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, store.root], env={**os.environ, "OMP_NUM_THREADS": "1"})
    seen = set()
    while writer.poll() is None:
        content = store.read_bytes("sub/file")
        assert len(set(content)) == 1
        assert content[0] == 255 or len(content) == 1 + 50_000 * (content[0] % 3)
        seen.add(content[0])
        assert store.files() == ["sub/file"]
    assert writer.returncode == 0
    assert len(seen) > 3
    assert os.listdir(f"{store.root}/sub") == ["file"]


def test_a_failed_write_leaves_nothing(store: Store) -> None:
    store.write_bytes("file", b"before")
    with pytest.raises(TypeError):
        store.write_bytes("file", "text, not bytes")
    assert store.read_bytes("file") == b"before"
    assert os.listdir(store.root) == ["file"]


def test_files_lists_committed_files_only(store: Store) -> None:
    for name in ("b/2.parquet", "a.json", "b/1.parquet", "b/.hidden.parquet.tmp"):
        store.write_bytes(name, b"x")
    assert store.files() == ["a.json", "b/1.parquet", "b/2.parquet"]
    assert store.files("b", suffix=".parquet") == ["b/1.parquet", "b/2.parquet"]
    assert store.files("absent") == []
    assert store.exists("a.json")
    assert not store.exists("b")
    assert not store.exists("c")


def test_holds_knows_address_and_wholeness(store: Store) -> None:
    store.write_table("t.parquet", table(), key="right")
    assert store.holds("t.parquet", "right")
    assert not store.holds("t.parquet", "wrong")
    assert not store.holds("absent.parquet", "right")
    store.write_table("plain.parquet", table())
    assert not store.holds("plain.parquet", "right")
    store.write_bytes("text.parquet", b"no parquet at all")
    assert not store.holds("text.parquet", "right")
    store.write_bytes("empty.parquet", b"")
    assert not store.holds("empty.parquet", "right")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_not_held(share: float, store: Store) -> None:
    store.write_table("t.parquet", table(), key="k")
    path = Path(store.path("t.parquet"))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert not store.holds("t.parquet", "k")
    with pytest.raises((OSError, pa.ArrowInvalid)):
        store.read_table("t.parquet")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_flipped_byte_is_noticed_on_reading(share: float, store: Store) -> None:
    store.write_table("t.parquet", table(), key="k")
    path = Path(store.path("t.parquet"))
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(OSError, match=r"(?i)crc|checksum|corrupt|deserializ"):
        store.read_table("t.parquet")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_damaged_shard_is_named_and_removed_from_the_study_that_is_being_made(share: float, store: Store) -> None:
    store.write_table("t.parquet", table(), key="k")
    content = bytearray(store.read_bytes("t.parquet"))
    content[int(share * len(content))] ^= 0x01
    store.write_bytes("t.parquet", bytes(content))
    with pytest.raises(UserError, match=r"/t\.parquet' is damaged and was not changed"):
        store.read_shard("t.parquet", ["index"])
    assert store.read_bytes("t.parquet") == bytes(content)
    store = Store(store.root, repairing=True)
    with pytest.raises(UserError, match=r"/t\.parquet' was damaged and has been removed; run the same command again"):
        store.read_shard("t.parquet", ["index"])
    assert not store.exists("t.parquet")
    with pytest.raises(FileNotFoundError):
        store.read_shard("t.parquet")


def test_a_file_without_a_checksum_is_not_held(store: Store) -> None:
    addressed = table().replace_schema_metadata({b"advlab.shard": b"k"})
    os.makedirs(store.root)
    pq.write_table(addressed, store.path("t.parquet"))
    assert not store.holds("t.parquet", "k")
    store.write_table("t.parquet", store.read_table("t.parquet"))
    assert store.holds("t.parquet", "k")


def test_a_large_footer_is_read_whole(store: Store) -> None:
    store.write_table("t.parquet", table().replace_schema_metadata({b"mine": b"x" * 200_000}), key="k")
    assert store.holds("t.parquet", "k")
    assert store.metadata("t.parquet")[b"mine"] == b"x" * 200_000


def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    store.delete("absent")


def test_temporary_files_are_told_apart(store: Store) -> None:
    for name in ("a/t.parquet", "a/.t.parquet.0123.tmp", ".hidden"):
        store.write_bytes(name, b"x")
    assert store.temporary_files() == ["a/.t.parquet.0123.tmp"]
    assert store.files() == ["a/t.parquet"]


def test_an_error_names_the_file_that_was_to_be_written(store: Store) -> None:
    os.makedirs(store.path("taken"))
    with pytest.raises(IsADirectoryError, match=rf"Is a directory: '{store.path('taken')}'"):
        store.write_bytes("taken", b"x")
    assert os.listdir(store.root) == ["taken"]


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "study")
    with pytest.raises(UserError, match=r"--out '.*/file/study' cannot be written \(.+\); choose a folder you may"):
        store.require_writable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        Store(tmp_path / "study").require_writable()


def test_probing_leaves_nothing_behind(store: Store) -> None:
    store.require_writable()
    assert os.listdir(store.root) == []


@pytest.mark.parametrize("uri", ["s3://", "nowhere://bucket/study", "s3://bucket/study?no_such_option=1"])
def test_a_uri_that_cannot_be_opened_is_one_sentence(uri: str) -> None:
    with pytest.raises(UserError) as caught:
        Store(uri)
    message = str(caught.value)
    assert message.startswith(f"{uri!r} is not a location PyArrow can open: ")
    assert "\n" not in message
    assert message.endswith(".")


def test_file_uris_and_home_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_uri = Store(f"file://{tmp_path}/study")
    by_uri.write_bytes("file", b"x")
    assert by_uri.is_local
    assert Store(tmp_path / "study").read_bytes("file") == b"x"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store("~/study").read_bytes("file") == b"x"


def test_a_store_that_is_not_local_works_alike(store: Store) -> None:
    """An object store as far as ``Store`` can tell: any file system that is not the local one."""
    store.require_writable()
    store.filesystem, store.root = pafs.SubTreeFileSystem(store.root, pafs.LocalFileSystem()), "bucket"
    store.filesystem.create_dir("bucket")
    store.is_local = False
    store.write_table("t.parquet", table(), key="k")
    assert store.holds("t.parquet", "k")
    assert store.read_table("t.parquet").equals(table())
    assert store.files() == ["t.parquet"]
    store.require_writable()
