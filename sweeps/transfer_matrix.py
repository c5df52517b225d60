"""Attack every model once, classify every example with every model: the paper's Tables 1 and 2 and Figure 7."""

from advlab.studies.experiment import main
from advlab.studies.transfer.study import TransferMatrix

if __name__ == "__main__":
    main(TransferMatrix)
