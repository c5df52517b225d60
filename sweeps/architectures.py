"""Sweep architectures × weight decay × seeds by Ray Tune: validation error and minimum distortion of every model."""

from advlab.studies.architectures.study import Architectures
from advlab.studies.experiment import main

if __name__ == "__main__":
    main(Architectures)
