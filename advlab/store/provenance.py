"""The provenance of results: versions, revision, command, time."""

import hashlib
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from advlab.text import masked_values

_PACKAGES = ("advlab", "torch", "torchvision", "ray", "numpy", "scipy", "pyarrow")


def describe(command: list[str]) -> dict[str, Any]:
    return {
        "command": masked_values(command),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "revision": _revision(),
        "started": now(),
    }


@cache
def code() -> str:
    """SHA-256 of the project's source: equal on machines with the same version."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()} {path.stat().st_size} ".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The git commit of this checkout, with ``+`` when files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        _git(here, "ls-files", "--error-unmatch", Path(__file__).name)  # installed code may lie in another checkout
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
