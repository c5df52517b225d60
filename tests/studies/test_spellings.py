"""Options that mean the same are spelt alike by every command; older spellings stay."""

from __future__ import annotations

from typing import Any

import pytest
import tyro

from advlab.studies.adversarial_training.study import AdversarialTraining
from advlab.studies.alexnet.study import AlexNet
from advlab.studies.architectures.study import Architectures
from advlab.studies.cross_training_set.study import CrossTrainingSet
from advlab.studies.directions.study import Units
from advlab.studies.paper.study import Paper
from advlab.studies.quocnet.study import QuocNet
from advlab.studies.spectral.study import Spectral
from advlab.studies.transfer.study import TransferMatrix

NAMED = (TransferMatrix, CrossTrainingSet, Architectures, AdversarialTraining, Units, Spectral, AlexNet, QuocNet)
COUNTED = (*NAMED, Paper)


def parsed(command: Any, *arguments: str) -> Any:
    required = ("--model", "softmax1") if command in (Units, Spectral) else ()
    return tyro.cli(command, args=(*required, *arguments), config=(tyro.conf.OmitArgPrefixes,))


@pytest.mark.parametrize("command", NAMED)
def test_the_data_set(command: Any) -> None:
    found, same = (parsed(command, flag, "fashion_mnist") for flag in ("--dataset", "--data"))
    assert found == same != parsed(command)


@pytest.mark.parametrize("command", COUNTED)
def test_the_number_of_images(command: Any) -> None:
    found, same = (parsed(command, flag, "77") for flag in ("--examples", "--images"))
    assert found == same != parsed(command)
