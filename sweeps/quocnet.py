"""QuocNet: learnt without labels on Ray Train, a car classifier on top, and adversarial examples for it (Figure 6)."""

from advlab.studies.experiment import main
from advlab.studies.quocnet.study import QuocNet

if __name__ == "__main__":
    main(QuocNet)
