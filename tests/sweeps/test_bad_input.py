"""Bad input to every command: one sentence that names the value and the mend, exit code 2, and nothing is written."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from advlab import command
from advlab.engine.session import session
from advlab.report.__main__ import Options as Report
from advlab.report.__main__ import main as report
from advlab.results.__main__ import Options as Results
from advlab.results.__main__ import main as results
from advlab.store import Study
from advlab.studies.adversarial_training.study import AdversarialTraining
from advlab.studies.alexnet.study import AlexNet
from advlab.studies.architectures.study import Architectures
from advlab.studies.cross_training_set.study import CrossTrainingSet
from advlab.studies.directions.study import Units
from advlab.studies.experiment import main
from advlab.studies.paper.study import Paper
from advlab.studies.quocnet.study import QuocNet
from advlab.studies.spectral.study import Spectral
from advlab.studies.transfer.study import TransferMatrix

ON_RAY = [
    ("transfer --models softmax1 --num-gpus 64", "fits this machine"),
    ("transfer --models softmax1 --out {here}/blocked/out", "cannot be written"),
    ("transfer --models softmax1 --out {here}/foreign", "holds files but no study.json; choose an empty"),
    ("transfer --models softmax1 --out {here}/other", "holds another study (its seed is 9, here 0); choose another"),
    ("transfer --models softmax1 --out s3://KEY:SECRET@bucket/x", "'s3://***@bucket/x' contains credentials"),
    ("architectures --num-gpus 64", "fits this machine"),
    ("adversarial-training --seeds 1 --out {here}/other", "holds another study"),
    ("units --model softmax1 --out {here}/foreign", "no study.json"),
    ("spectral --model softmax1 --out {here}/other", "holds another study (a transfer study)"),
]
"""Input that is found to be bad once Ray is there."""
BEFORE_RAY = [
    ("transfer --models nosuch", "unknown model 'nosuch'; choose among softmax1e-4"),
    ("transfer --models ,", "--models names no model; give e.g. 'paper'"),
    ("transfer --models softmaxabc", "unknown model 'softmaxabc'"),
    ("transfer --models fc100-100", "the name must end in -10"),
    ("transfer --models resnet-9", "its depth must be 8, 14, 20"),
    ("transfer --models softmax1-linf0.3", "harden or distil e.g. conv"),
    ("transfer --models softmax1@nosuch", "Unknown split 'nosuch': choose one of train"),
    ("transfer --models file:nowhere.py:make", "there is no file"),
    ("transfer --models file:x", "write file:PATH.py:FACTORY"),
    ("transfer --models torchvision:nosuch", "torchvision has no such model"),
    ("transfer --models torchvision:alexnet@nosuch", "no such model or weights ('nosuch')"),
    ("transfer --models python:nosuch.module:make", "write python:MODULE:FACTORY (No module named 'nosuch')"),
    ("transfer --models study:{here}/empty", "holds no study"),
    ("transfer --models study:{here}/units", "names no model"),
    ("transfer --dataset nosuch", "Unknown data set 'nosuch': choose one of mnist"),
    ("transfer --data folder:{here}/nowhere", "there is no folder"),
    ("transfer --data folder:{here}/empty", "it looks for .jpg"),
    ("transfer --data folder:{here}/photos --models conv --examples 1", "cannot be read as an image"),
    ("transfer --split nosuch", "Unknown split 'nosuch': choose one of train"),
    ("transfer --models softmax1 --examples 0", "--examples 0 is impossible"),
    ("transfer --models softmax1 --examples 60001", "choose 1 to 60000"),
    ("transfer --models softmax1 --attack nosuch", "unknown attack 'nosuch'; choose lbfgs"),
    ("transfer --models softmax1 --attack minimum-norm:x", "write e.g. minimum-norm:32"),
    ("transfer --models softmax1 --attack foolbox:Nope", "Foolbox has no attack 'Nope'"),
    ("transfer --models softmax1 --target ten", "unknown target 'ten'; choose one of random"),
    ("transfer --models softmax1 --controls pepper", "unknown control 'pepper'; choose gaussian-SIGMA"),
    ("transfer --models softmax1 --seed -1", "--seed -1 is impossible; choose at least 0"),
    ("transfer --models softmax1 --shard-size 0", "--shard-size 0 is impossible; choose at least 1"),
    ("transfer --models softmax1 --actors 0", "--actors 0 is impossible; choose at least 1"),
    ("transfer --models softmax1 --num-cpus -1", "none of these may be negative"),
    ("transfer --models softmax1 --reuse {here}/foreign", "holds no study: there is no study.json"),
    ("cross-training-set --on-first nosuch", "unknown model 'nosuch@p1'"),
    ("cross-training-set --examples 0", "choose 1 to 10000"),
    ("cross-training-set --seed -2", "Seed -2 is negative: choose 0 or more"),
    ("architectures --architectures nosuch", "unknown architecture 'nosuch'; choose softmax"),
    ("architectures --decays x", "write e.g. 1e-6,1e-4,1e-2"),
    ("architectures --decays -1", "'-1' is not a λ greater than 0"),
    ("architectures --decays 1e-3,0", "'0' is not a λ greater than 0"),
    ("architectures --search bayes", "unknown search 'bayes'"),
    ("architectures --examples 0", "--examples 0 is impossible"),
    ("architectures --actors 0", "--actors 0 is impossible"),
    ("adversarial-training --variants nosuch", "unknown variant 'nosuch'; choose among weight-decay"),
    ("adversarial-training --seeds 0", "--seeds 0 is impossible; choose at least 1"),
    ("adversarial-training --epochs 0", "must each be at least 1"),
    ("adversarial-training --batch-size 0", "must each be at least 1"),
    ("adversarial-training --network nosuch", "unknown model 'nosuch'"),
    ("units --model nosuch", "unknown model 'nosuch'"),
    ("units --model softmax1 --directions 0", "--directions 0 is impossible; choose at least 2"),
    ("units --model softmax1 --layer nosuch", "the model has no layer 'nosuch'; choose among 0, 1"),
    ("units --model study:{here}/nowhere", "holds no study"),
    ("spectral --model nosuch", "unknown model 'nosuch'"),
    ("spectral --model softmax1 --images -1", "--images -1 is impossible; choose at least 1"),
    ("spectral --model file:nowhere.py:f", "there is no file"),
    ("alexnet --data nosuch", "Unknown data set 'nosuch': choose one of mnist"),
    ("alexnet --epochs 0", "--epochs 0 is impossible; choose at least 1"),
    ("alexnet --alone --batch-size 0", "--batch-size 0 is impossible; choose at least 1"),
    ("quocnet --model nosuch", "unknown model 'nosuch'; choose one of quocnet-1b"),
    ("quocnet --alone --steps 0", "--steps 0 is impossible; choose at least 1"),
    ("paper --seeds 0", "--seeds 0 is impossible; choose at least 1"),
    ("verify {here}/empty", "holds no study"),
    ("verify {here}/units", "holds a study of kind 'units'; choose a transfer study"),
    ("merge {here}/other", "merge needs two or more studies"),
    ("merge {here}/other {here}/empty", "has no dataset; restore its original version"),
    ("show {here}/empty", "holds no study"),
    ("show {here}/other", "has no dataset; restore its original version"),
]


STUDIES = {
    "transfer": TransferMatrix,
    "cross-training-set": CrossTrainingSet,
    "architectures": Architectures,
    "adversarial-training": AdversarialTraining,
    "units": Units,
    "spectral": Spectral,
    "alexnet": AlexNet,
    "quocnet": QuocNet,
    "paper": Paper,
}
COMMANDS: dict[str, Callable[[], None]] = {
    **{name: partial(main, study) for name, study in STUDIES.items()},
    "verify": partial(command.run, "", Results, results),
    "merge": partial(command.run, "", Results, results),
    "show": partial(command.run, "", Report, report),
}
"""By name, what runs a command in this process; its options are ``sys.argv``."""


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    with session(None):
        yield


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a file, another study and others of a user's things."""
    for folder in ("foreign", "empty", "photos/cat"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("blocked", "foreign/thesis.tex", "photos/cat/a.jpg"):
        (tmp_path / name).write_text("precious")
    Study.begin("transfer", {"seed": 9}, str(tmp_path / "other"))
    Study.begin("units", {"seed": 9}, str(tmp_path / "units"))
    return tmp_path


@pytest.fixture
def require_refusal(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, str], None]:
    """Runs a command that must refuse: its message tells what is wrong, and nothing is written."""

    def run(line: str, told: str) -> None:
        name, *words = shlex.split(line.format(here=here))
        out = [] if "--out" in words or name in ("verify", "show") else ["--out", str(here / "out")]
        words = [name, *words] if name in ("verify", "merge") else words
        before = {path: path.is_file() and path.read_bytes() for path in here.rglob("*")}
        monkeypatch.setitem(os.environ, "COLUMNS", "160")
        monkeypatch.setattr("advlab.store.study.opened", [])
        monkeypatch.setattr(sys, "argv", ["advlab", *words, *out])
        with pytest.raises(SystemExit) as stopped:
            COMMANDS[name]()
        printed = capsys.readouterr().err
        assert stopped.value.code == 2, printed
        assert "Traceback" not in printed
        after = {path: path.is_file() and path.read_bytes() for path in here.rglob("*") if path != here / "out"}
        assert after == before
        message = printed.strip().splitlines()[-1]
        assert message.startswith("error: ")
        assert told in message

    return run


@pytest.mark.parametrize(("line", "told"), BEFORE_RAY, ids=lambda value: value[:60])
def test_before_ray_starts(line: str, told: str, require_refusal: Callable[[str, str], None]) -> None:
    require_refusal(line, told)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("line", "told"), ON_RAY, ids=lambda value: value[:60])
def test_once_ray_is_there(line: str, told: str, require_refusal: Callable[[str, str], None]) -> None:
    require_refusal(line, told)
