"""Train QuocNet without labels on Ray Train, and a car classifier on top; attack the classifier (Figure 6)."""

from advlab.studies.experiment import main
from advlab.studies.quocnet.study import QuocNet

if __name__ == "__main__":
    main(QuocNet)
