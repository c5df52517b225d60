"""The paper's experiments, whole."""
