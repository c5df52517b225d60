"""Table 5 for any model."""
