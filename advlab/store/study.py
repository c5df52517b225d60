"""A study: a folder of results with its settings, provenance and identity."""

import hashlib
import json
import sys
from typing import Any, Self

from advlab.errors import UserError, one_line
from advlab.store import provenance
from advlab.store.files import Store
from advlab.store.layout import MANIFEST
from advlab.store.manifest import check

opened: list[str] = []
"""Folders whose studies this process has read: what it finds in them may be a stranger's, or of another version."""


class Study:
    """One study in one folder, local or remote: ``study.json`` holds its configuration and provenance, Parquet files
    its rows; everything else is derived from them.
    """

    def __init__(self, store: Store, manifest: dict[str, Any]) -> None:
        self.store = store
        self.manifest = manifest

    @classmethod
    def begin(
        cls, kind: str, config: dict[str, Any], out: str | None = None, *, attack: dict[str, Any] | None = None
    ) -> Self:
        """Start a study, or continue it if ``out`` holds part of it; by default a folder of its own below ``runs/``.

        ``kind``, ``config`` (all settings) and ``attack`` (its arguments and the version of its code) are the study's
        identity. Raises a UserError if ``out`` holds another study or other files, or cannot be written.
        """
        manifest = {"kind": kind, "config": config, "attack": attack, "seed": config.get("seed")}
        manifest |= provenance.describe(sys.argv) | {"finished": None, "hosts": None}
        return cls.adopt(out or f"runs/{kind}-{study_identity(manifest)[:8]}", manifest)

    @classmethod
    def adopt(cls, out: str, manifest: dict[str, Any]) -> Self:
        """As ``begin``, with a given manifest; entries of earlier runs are kept."""
        store = Store(out, repairing=True)
        identity = study_identity(manifest)
        if not store.exists(MANIFEST):
            if store.files() and not store.exists(MANIFEST):  # another command may have started it just now
                raise UserError(f"--out {out!r} holds files but no study.json; choose an empty or new folder.")
            store.require_writable()
            study = cls(store, {**manifest, "identity": identity})
            if store.create_json(MANIFEST, study.manifest):
                return study
        earlier = cls._read(store)
        if not earlier["identity"] == study_identity(earlier) == identity:
            raise UserError(
                f"--out {out!r} holds another study ({_difference(earlier, manifest)}); "
                "choose another folder, or run with the settings of that study to continue it."
            )
        store.require_writable()
        study = cls(store, earlier)
        if earlier["finished"] is None:
            study.manifest.setdefault("resumed", []).append(provenance.describe(sys.argv))
            study.save_manifest()
        return study

    @classmethod
    def open(cls, out: str) -> Self:
        """Read an existing study; raises a UserError if there is none in ``out``."""
        store = Store(out)
        if not store.exists(MANIFEST):
            raise UserError(f"{out!r} holds no study: there is no {MANIFEST} in it.")
        return cls(store, cls._read(store))

    def save_manifest(self) -> None:
        self.store.write_json(MANIFEST, self.manifest)

    def record_model(self, name: str, fingerprint: str, **described: Any) -> None:
        """Record a model for the next ``save_manifest``; raises a UserError if the study began with other weights."""
        models = self.manifest.setdefault("models", {})
        if models.get(name, {}).get("fingerprint", fingerprint) != fingerprint:
            raise UserError(
                f"model {name!r} differs from the one with which the study in {self.store.uri!r} began; "
                "choose another --out, or restore that model."
            )
        models[name] = {"fingerprint": fingerprint, **described}

    def finish(self, hosts: int) -> None:
        """Record that the study is complete, and how many machines took part."""
        self.manifest |= {"finished": provenance.now(), "hosts": hosts}
        self.save_manifest()

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest["config"]

    @property
    def fingerprints(self) -> dict[str, str]:
        return {name: model["fingerprint"] for name, model in self.manifest.get("models", {}).items()}

    @classmethod
    def check(cls, manifest: dict[str, Any]) -> None:
        """Raise a ValueError that describes the first problem of an untrusted manifest."""
        check(manifest)

    @classmethod
    def _read(cls, store: Store) -> dict[str, Any]:
        try:
            found: dict[str, Any] = store.read_json(MANIFEST)
            cls.check(found)
            found.setdefault("finished", None)
        except ValueError as error:
            raise UserError(
                f"{store.path(MANIFEST)!r} is not a study of advlab ({one_line(error)[:300]}); choose another folder."
            ) from error
        opened.append(store.uri)
        return found


def address(*decisive: Any) -> str:
    """SHA-256 of values that together determine the rows of a shard: its content address."""
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def study_identity(manifest: dict[str, Any]) -> str:
    """SHA-256 of everything that determines a study's rows: kind, settings, and settings of the attack."""
    decisive = {key: manifest.get(key) for key in ("kind", "config", "attack")}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _difference(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    if earlier["kind"] != now["kind"]:
        return f"a {earlier['kind']} study"
    for part, what in (("config", ""), ("attack", "attack's ")):
        was, is_ = earlier.get(part) or {}, now.get(part) or {}
        for key in {**was, **is_}:
            if was.get(key) != is_.get(key):
                return f"its {what}{key} is {was.get(key)!r}, here {is_.get(key)!r}"
    return "its settings were edited"
