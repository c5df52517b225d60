"""Train AlexNet (Krizhevsky et al. 2012) by data-parallel workers on Ray Train, for use in other studies."""

from advlab.studies.alexnet.study import AlexNet
from advlab.studies.experiment import main

if __name__ == "__main__":
    main(AlexNet)
