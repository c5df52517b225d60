"""Measure transfer between models of disjoint halves of the training set: Tables 3 and 4."""

from advlab.studies.cross_training_set.study import CrossTrainingSet
from advlab.studies.experiment import main

if __name__ == "__main__":
    main(CrossTrainingSet)
