"""Adversarial training from a refreshed pool, and its ablation."""
