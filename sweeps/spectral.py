"""Frame bounds of every layer of a network, and its measured amplification: the paper's Table 5."""

from advlab.studies.experiment import main
from advlab.studies.spectral.study import Spectral

if __name__ == "__main__":
    main(Spectral)
