"""Sweeps over architectures, weight decays and seeds, by Ray Tune."""
