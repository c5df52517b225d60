"""W&B with its real library: run files are read back, servers are absent or dead."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import wandb
from offline_runs import records

from advlab.errors import UserError
from advlab.report import Tracker
from advlab.store import Store
from advlab.studies.transfer import figures
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.show import show
from advlab.studies.transfer.view import View

GROUP = "0123456789ab"
IDENTITY = GROUP + 52 * "c"


@pytest.fixture(autouse=True)
def private_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep W&B's caches and credentials of the machine out of the tests."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


def tracker(study: TransferStudy, mode: str, out: str | None = None, timeout: float = 20.0) -> Tracker:
    return Tracker(
        mode,
        identity=IDENTITY,
        config=study.config,
        out=str(study.store.root) if out is None else out,
        timeout=timeout,
    )


def run_file(folder: Path) -> Path:
    """The newest offline run file below a folder, whole: W&B's service may write its end only when it stops."""
    wandb.teardown()
    return max(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def study_artifact(path: Path) -> Any:
    """The one artifact of type ``study`` in a run file."""
    artifacts = [r.artifact for r in records(path) if r.WhichOneof("record_type") == "artifact"]
    (artifact,) = [artifact for artifact in artifacts if artifact.type == "study"]
    return artifact


def history(path: Path) -> dict[str, Any]:
    """Everything logged, by key; a table or an image is a dict of its fields."""
    logged: dict[str, Any] = {}
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                key, *field = item.nested_key or [item.key]
                value = json.loads(item.value_json)
                if field:
                    logged.setdefault(key, {})["/".join(field)] = value
                else:
                    logged[key] = value
    return logged


def test_an_offline_run_holds_config_matrix_heat_map_examples_and_artifact(study: TransferStudy) -> None:
    with tracker(study, "offline") as tracked:
        tracked.log({"progress/shards": 3}, step=1)
        tracked.record(study, show(View(study), 140))
        assert tracked.mode == "offline"
    path = run_file(Path(study.store.root))
    found = {record.WhichOneof("record_type"): record for record in records(path)}

    run = found["run"].run
    assert run.run_group == GROUP
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: config[key] for key in study.config} == study.config

    logged = history(path)
    assert logged["progress/shards"] == 3
    assert logged["matrix"]["_type"] == "table-file"
    assert (logged["matrix"]["ncols"], logged["matrix"]["nrows"]) == (10, study.matrix().num_rows)
    table = json.loads((path.parent / "files" / logged["matrix"]["path"]).read_text())
    assert table["columns"] == study.matrix().column_names
    assert table["data"] == [list(row.values()) for row in study.matrix().to_pylist()]
    for key in ("matrix_heat_map", "examples/softmax1e-4", "examples/gaussian-0.3"):
        assert logged[key]["_type"] == "image-file"
        assert (path.parent / "files" / logged[key]["path"]).read_bytes().startswith(b"\x89PNG")

    artifact = study_artifact(path)
    assert artifact.name == f"transfer-{study.manifest['identity'][:12]}"
    names = {entry.path for entry in artifact.manifest.contents}
    assert names == {"study.json", *study.store.files(suffix=".parquet")}


def test_a_whole_report_reads_the_matrix_once_and_makes_each_panel_once(
    study: TransferStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, made = Counter[str](), Counter[str]()
    read_bytes, pairs = Store.read_bytes, figures._pairs

    def counted(store: Store, relative: str, most: int | None = None) -> bytes:
        read[relative] += 1
        return read_bytes(store, relative, most)

    def counted_pairs(view: View, source: str, rows: int = 6) -> Any:
        made[source] += 1
        return pairs(view, source, rows)

    monkeypatch.setattr(Store, "read_bytes", counted)
    monkeypatch.setattr(figures, "_pairs", counted_pairs)
    with tracker(study, "offline") as tracked:
        tracked.record(study, show(View(study), 140))
    assert read["matrix.parquet"] == 1
    assert made == dict.fromkeys(figures.figure_7_sources(View(study).matrix), 1)
    # once for the sizes of all examples, and the first files once more for the images shown
    assert all(count <= 2 for name, count in read.items() if name.startswith("examples/"))


def test_a_remote_studys_artifact_holds_the_matrix_alone(study: TransferStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study.store, "is_local", False)
    with tracker(study, "offline") as tracked:
        tracked.record(study, show(View(study), 140))
    artifact = study_artifact(run_file(Path(study.store.root)))
    assert {entry.path for entry in artifact.manifest.contents} == {"study.json", "matrix.parquet"}
    assert json.loads(artifact.metadata) == {"uri": study.store.uri}


def test_the_run_files_of_a_remote_study_lie_in_a_temporary_directory(
    study: TransferStudy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with tracker(study, "offline", out="s3://bucket/study") as tracked:
        tracked.log({"a": 1})
    (folder,) = tmp_path.glob("advlab-wandb-*")
    assert history(run_file(folder))["a"] == 1


def test_run_files_are_not_written_behind_a_link(
    study: TransferStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B replaces the logs and the link to the latest run that it finds in its folder."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "wandb").symlink_to(tmp_path)
    (tmp_path / "debug.log").write_text("of the user")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with tracker(study, "offline", str(tmp_path / "study")) as tracked:
        assert tracked.mode == "offline"
    assert (tmp_path / "debug.log").read_text() == "of the user"
    assert len(list(tmp_path.glob("advlab-wandb-*"))) == 1


def test_no_key_is_sent_to_the_server_that_a_study_names(
    study: TransferStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B looks for its settings in the working directory."""
    folder = tmp_path / "study" / "wandb"
    folder.mkdir(parents=True)
    (folder / "settings").write_text("[default]\nbase_url = http://127.0.0.1:1\n")
    monkeypatch.chdir(folder.parent)
    with pytest.raises(UserError, match="send your key there"):
        tracker(study, "online", str(folder.parent))


def test_disabled_never_imports_wandb(study: TransferStudy) -> None:
    code = (
        "import sys; from advlab.report import Tracker\n"
        f"t = Tracker('disabled', identity='x', config={{}}, out={str(study.store.root)!r})\n"
        "t.log({'a': 1}); t.record(None, None); t.finish()\n"
        "sys.exit('wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_an_unknown_mode_is_the_users_mistake(study: TransferStudy) -> None:
    with pytest.raises(UserError, match="'on'; choose one of online, offline, disabled"):
        tracker(study, "on")


def test_online_without_a_key_goes_on_offline(
    study: TransferStudy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdin", open("/dev/null"))  # noqa: SIM115 - closed with the process
    with caplog.at_level(logging.WARNING, "advlab"), tracker(study, "online") as tracked:
        tracked.log({"a": 1})
        assert tracked.mode == "offline"
    ours = [record for record in caplog.records if record.name.startswith("advlab")]
    assert [record.levelname for record in ours] == ["WARNING"]
    assert "API key" in ours[0].message
    assert history(run_file(Path(study.store.root)))["a"] == 1


@pytest.mark.parametrize("server", ["closed", "silent"])
def test_a_dead_server_neither_raises_nor_hangs(study: TransferStudy, tmp_path: Path, server: str) -> None:
    """In a process of its own, since what could hang is W&B's exit handler too."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if server == "silent":
            listener.listen()
        code = (
            "import logging; logging.basicConfig()\n"
            "from advlab.report import Tracker\n"
            "from advlab.studies.transfer.results import TransferStudy\n"
            "from advlab.studies.transfer.show import show\n"
            "from advlab.studies.transfer.view import View\n"
            f"study = TransferStudy.open({str(study.store.root)!r})\n"
            f"with Tracker('online', identity={IDENTITY!r}, config={{}}, out={str(tmp_path)!r}, timeout=3) as t:\n"
            "    t.log({'a': 1}); t.record(study, show(View(study), 140))\n"
            "print('the study went on', t.mode)"
        )
        environment = {
            **os.environ,
            "WANDB_API_KEY": 40 * "a",
            "WANDB_BASE_URL": f"http://127.0.0.1:{listener.getsockname()[1]}",
        }
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    assert run.returncode == 0, run.stderr
    assert "the study went on offline" in run.stdout
    assert run.stderr.count("WARNING:advlab.report.tracker") == 1
    assert history(run_file(tmp_path))["a"] == 1


def test_an_error_while_recording_is_one_warning(
    one_model_study: TransferStudy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = show(View(one_model_study), 140)
    Path(one_model_study.store.path("matrix.parquet")).unlink()
    monkeypatch.setattr(one_model_study.store, "files", lambda *_, **__: ["matrix.parquet"])
    with caplog.at_level(logging.WARNING, "advlab"), tracker(one_model_study, "offline") as tracked:
        tracked.record(one_model_study, shown)
        tracked.log({"a": 1})
    assert [record.levelname for record in caplog.records if record.name.startswith("advlab")] == ["WARNING"]
