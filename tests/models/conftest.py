"""A cache of trained models of one's own, beside the real data."""

from __future__ import annotations

from pathlib import Path

import pytest

from advlab import data


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with the data sets in it and no model."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "data").symlink_to(data.cache_dir() / "data")
    monkeypatch.setenv("ADVLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
