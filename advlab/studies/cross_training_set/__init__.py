"""Examples across halves of the training set, Tables 3 and 4."""
