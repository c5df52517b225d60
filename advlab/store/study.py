"""A folder of results: its settings and provenance, and what decides whether two studies are the same."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any, Self

from advlab.errors import UserError, one_line
from advlab.store import provenance
from advlab.store.files import Store
from advlab.store.layout import MANIFEST
from advlab.store.manifest import check


class Study:
    """One study in one folder, local or remote.

    ``study.json`` holds its configuration and provenance; the Parquet files hold its rows; everything else is a
    view of them.
    """

    def __init__(self, store: Store, manifest: dict[str, Any]) -> None:
        self.store = store
        self.manifest = manifest

    @classmethod
    def begin(
        cls, kind: str, config: dict[str, Any], out: str | None = None, *, attack: dict[str, Any] | None = None
    ) -> Self:
        """Start a study, or continue it where ``out`` holds part of the same one.

        Args:
            kind: what sort of study; with ``config`` and ``attack`` it decides what the same study is.
            config: its settings in full.
            out: its folder; one below ``runs/`` that is named after the above when absent.
            attack: the attack's arguments and the version of its code, where there is one.

        Raises:
            UserError: ``out`` holds another study, something that is no study, or cannot be written.
        """
        manifest = {
            "kind": kind,
            "config": config,
            "attack": attack,
            "seed": config.get("seed"),
            **provenance.describe(sys.argv),
            "finished": None,
            "hosts": None,
        }
        return cls.adopt(out or f"runs/{kind}-{study_identity(manifest)[:8]}", manifest)

    @classmethod
    def adopt(cls, out: str, manifest: dict[str, Any]) -> Self:
        """Start a study with a manifest that is there already, or continue it; what an earlier run recorded is kept.

        Raises:
            UserError: as for ``begin``.
        """
        store = Store(out, mending=True)
        identity = study_identity(manifest)
        if not store.exists(MANIFEST):
            if store.files() and not store.exists(MANIFEST):  # another command may have begun just now
                raise UserError(f"--out {out!r} holds files but no study.json; choose an empty or new folder.")
            store.require_writable()
            study = cls(store, {**manifest, "identity": identity})
            if store.create_json(MANIFEST, study.manifest):
                return study
        earlier = cls._read(store)
        if earlier["identity"] != identity:
            raise UserError(
                f"--out {out!r} holds another study ({_difference(earlier, manifest)}); "
                "choose another folder, or run with the settings of that study to continue it."
            )
        store.require_writable()
        study = cls(store, earlier)
        if earlier.get("finished") is None:
            study.manifest.setdefault("resumed", []).append(provenance.describe(sys.argv))
            study.save_manifest()
        return study

    @classmethod
    def open(cls, out: str) -> Self:
        """Read an existing study.

        Raises:
            UserError: there is no study in ``out``.
        """
        store = Store(out)
        if not store.exists(MANIFEST):
            raise UserError(f"{out!r} holds no study: there is no {MANIFEST} in it.")
        return cls(store, cls._read(store))

    def save_manifest(self) -> None:
        """Write ``study.json`` as it now stands."""
        self.store.write_json(MANIFEST, self.manifest)

    def record_model(self, name: str, fingerprint: str, **described: Any) -> None:
        """Note a model's fingerprint, and what else there is to say of it, for the next ``save_manifest``.

        Raises:
            UserError: the study began with other weights.
        """
        models = self.manifest.setdefault("models", {})
        if models.get(name, {}).get("fingerprint", fingerprint) != fingerprint:
            raise UserError(
                f"model {name!r} is another than when the study in {self.store.uri!r} began; "
                "choose another --out, or bring that model back."
            )
        models[name] = {"fingerprint": fingerprint, **described}

    def finish(self, hosts: int) -> None:
        """Note that every row is there, and how many machines took part."""
        self.manifest |= {"finished": provenance.now(), "hosts": hosts}
        self.save_manifest()

    @property
    def config(self) -> dict[str, Any]:
        """The settings that make the study what it is."""
        config: dict[str, Any] = self.manifest["config"]
        return config

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the models' weights, as far as they are known."""
        return {name: model["fingerprint"] for name, model in self.manifest.get("models", {}).items()}

    @classmethod
    def check(cls, manifest: dict[str, Any]) -> None:
        """Raise a ValueError, in words, where a manifest cannot be one of ours; it may be a stranger's."""
        check(manifest)

    @classmethod
    def _read(cls, store: Store) -> dict[str, Any]:
        try:
            found: dict[str, Any] = store.read_json(MANIFEST)
            cls.check(found)
        except ValueError as error:
            raise UserError(
                f"{store.path(MANIFEST)!r} is not a study of advlab ({one_line(error)[:300]}); choose another folder."
            ) from error
        return found


def study_identity(manifest: dict[str, Any]) -> str:
    """SHA-256 of what decides a study's rows: its kind, its settings, and those of its attack."""
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
