"""Transfer between models of disjoint halves of the training set: Tables 3 and 4."""
