"""Messages with argument names in them, as a command prints them: with its flags."""

import logging
import tempfile
from pathlib import Path

import pytest

from advlab.command import option_names, run, with_flags
from advlab.errors import UserError
from advlab.results.__main__ import Options as Results
from advlab.store.study import Study
from advlab.studies.adversarial_training.study import AdversarialTraining
from advlab.studies.transfer.study import TransferMatrix


def test_option_names_include_nested_groups_and_subcommands() -> None:
    assert {"batch_size", "snapshot_epochs", "workers", "out", "pool"} <= option_names(AdversarialTraining)
    assert {"models", "trust_code", "num_gpus"} <= option_names(TransferMatrix)
    assert not option_names(TransferMatrix) & {"settings", "common", "pool"}
    assert option_names(Results) == {"study", "studies", "repair", "memory", "out"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`batch_size` 3 is impossible", "--batch-size 3 is impossible"),
        ("`pool` 'runs/`x`/pool' and pool", "--pool 'runs/`x`/pool' and pool"),
        (
            "`unknown` stays, as do batch_size, `batch size` and ``",
            "`unknown` stays, as do batch_size, `batch size` and ``",
        ),
    ],
)
def test_only_known_names_in_backquotes_become_flags(text: str, expected: str) -> None:
    assert with_flags(text, {"batch_size", "pool"}) == expected


def test_errors_and_warnings_of_a_command_name_its_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_: TransferMatrix) -> None:
        logging.getLogger("advlab").warning("name it in `trust_code`")
        raise UserError("`models` names no model.")

    monkeypatch.setattr("sys.argv", ["transfer_matrix.py"])
    monkeypatch.setattr(logging.root, "handlers", [])
    with pytest.raises(SystemExit) as stopped:
        run("", TransferMatrix, work)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines() == ["name it in --trust-code", "error: --models names no model."]


def test_a_failure_on_another_study_is_one_sentence_with_its_traceback_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "study.json").write_text('{"kind": "transfer", "identity": "x", "config": {}}')

    def work(_: TransferMatrix) -> None:
        print(Study.open(str(tmp_path)).manifest["of a later version"])

    monkeypatch.setattr("sys.argv", ["transfer_matrix.py"])
    monkeypatch.setattr("advlab.store.study.opened", [])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        run("", TransferMatrix, work)
    assert stopped.value.code == 1
    told = " ".join(capsys.readouterr().err.split())
    assert f"error: advlab failed on what it read in '{tmp_path}' (KeyError: 'of a later version')" in told
    (log,) = tmp_path.glob("advlab-*.log")
    assert "Traceback" in log.read_text()
