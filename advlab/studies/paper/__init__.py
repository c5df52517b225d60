"""The complete experiments of the paper."""
