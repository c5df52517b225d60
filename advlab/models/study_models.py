"""Models that one study trained, for use in another: ``study:DIR``, ``study:DIR?best=6``, ``study:DIR?name=fc*``.

Studies of others are data. Their weights are read; Python code that they name (``file:…`` and ``python:…``) is listed,
and run only if the user repeats its name.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from advlab.errors import UserError, one_line
from advlab.models import external
from advlab.models.checkpoint import Checkpoint
from advlab.models.recipe import UnknownRecipe
from advlab.store.files import Store
from advlab.store.layout import model_of, weights_file
from advlab.store.study import Study

logger = logging.getLogger(__name__)
SCHEME, _FILE = "study:", ".safetensors"
UNTRUSTED = "untrusted:"
"""Prefix of models that are code in a command printed from a study's folder."""
_SELECTORS = ("best", "name")


@dataclass(frozen=True, slots=True)
class StudyModel:
    """A trained model, and the name by which it was requested."""

    checkpoint: Checkpoint
    origin: str


def expand(names: list[str], trusted: Collection[str] = ()) -> tuple[list[str], dict[str, StudyModel]]:
    """All names without duplicates, with every ``study:…`` replaced by the names of its models, and these models.

    Args:
        names: as given by the user; printed commands of studies name code as ``untrusted:NAME``.
        trusted: names of code in other studies that the user repeated.

    Raises:
        UserError: no such study, no matching model, two models of one name, or code that is not trusted.
    """
    expanded: dict[str, None] = {}
    found: dict[str, StudyModel] = {}
    for name in (_trusted(name, trusted) for name in names):
        models = load(name) if is_stored(name) else {}
        for own, model in models.items():
            same = own in found and found[own].checkpoint.fingerprint == model.checkpoint.fingerprint
            if (own in expanded and not same) or own in names:
                raise UserError(f"`models` names two models {own!r}, one of them in {name!r}; leave one of them out.")
            found.setdefault(own, model)
        code = _code(name, trusted) if name.startswith(SCHEME) else []
        expanded |= dict.fromkeys([*models, *code] or [name])
    return list(expanded), found


def is_stored(name: str) -> bool:
    """Whether a name stands for models in a study or a file."""
    return name.startswith(SCHEME) or name.endswith(_FILE)


def one(text: str) -> Checkpoint:
    """The one model that a name stands for; raises a UserError as `load` does, or if it stands for several."""
    found = load(text)
    if len(found) > 1:
        some = ", ".join(list(found)[:3])
        raise UserError(f"{text!r} names {len(found)} models ({some}…); choose one of them with ?name=NAME.")
    return next(iter(found.values())).checkpoint


def load(text: str) -> dict[str, StudyModel]:
    """The models of ``study:DIR``, by name, in the order the study lists them; or the model of one ``.safetensors``.

    ``?best=N`` selects the N with the smallest validation error, ``?name=PATTERN`` those with matching names (``*`` and
    ``?`` are wildcards); both may be joined by ``&``. Raises a UserError if there is no such study or model, if a model
    is damaged or not its recipe's, or if the selection cannot be made.
    """
    if not text.startswith(SCHEME):
        return _file(text)
    uri, chosen = _parse(text)
    pattern, best = chosen.get("name", "*"), chosen.get("best")
    study = Study.open(uri)
    names = list(study.manifest.get("models", {}))
    files = dict.fromkeys(file for name in names if study.store.exists(file := weights_file(name)))
    files |= dict.fromkeys(study.store.files("models", suffix=".safetensors"))
    asked = [file for file in files if fnmatchcase(model_of(file), pattern)]
    models = {model.recipe.name: model for model in (_read(study.store, file) for file in asked)}
    models = {name: model for name, model in models.items() if fnmatchcase(name, pattern)}
    if not models:
        which = f" with the name {pattern}" if pattern != "*" else ""
        raise UserError(f"{text!r} names no model: there is none{which} in {study.store.path('models')!r}.")
    if best is not None:
        if any("validation_error" not in model.report for model in models.values()):
            raise UserError(f"{text!r}: its models were not measured on validation images; leave 'best' out.")
        ranked = sorted(models, key=lambda name: (models[name].report["validation_error"], name))
        models = {name: models[name] for name in ranked[: int(best)]}
    for model in models.values():  # now, not after a study has started with them
        model.recipe.require_fits(model.weights)
    origin = SCHEME + _joined(study.store.uri, [f"{key}={value}" for key, value in chosen.items()])
    return {name: StudyModel(model, origin) for name, model in models.items()}


def _file(path: str) -> dict[str, StudyModel]:
    """The model of a file, by its name."""
    file = Path(path).expanduser().resolve()
    try:
        found = read_model(Store(file.parent), file.name)
    except (OSError, ValueError) as error:
        raise UserError(f"model {path!r} is not a checkpoint of advlab ({one_line(error)}).") from error
    found.recipe.require_fits(found.weights)
    return {found.recipe.name: StudyModel(found, path)}


def _parse(text: str) -> tuple[str, dict[str, str]]:
    """The folder and the selection of models; other parameters after ``?`` belong to the folder."""
    path, _, query = text.removeprefix(SCHEME).partition("?")
    kept: list[str] = []
    chosen: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key in _SELECTORS:
            chosen[key] = value
        else:
            kept.append(part)
    best = chosen.get("best", "1")
    if not (best.isdecimal() and int(best)):
        raise UserError(f"{text!r}: {best!r} is not a number of models; write e.g. study:DIR?best=6.")
    return _joined(path, kept), chosen


def _joined(uri: str, parts: list[str]) -> str:
    return uri + ("&" if "?" in uri else "?") * bool(parts) + "&".join(parts)


def _trusted(name: str, trusted: Collection[str]) -> str:
    """A name from the command line, without the prefix for code if the user has repeated the name."""
    if not name.startswith(UNTRUSTED):
        return name
    code = name.removeprefix(UNTRUSTED)
    if code not in trusted:
        raise UserError(f"{code!r} is code that a study names; read it, and name it in `trust_code` to run it.")
    return code


def _code(text: str, trusted: Collection[str]) -> list[str]:
    """The trusted models among those of a study that are code, without weights."""
    uri, chosen = _parse(text)
    study = Study.open(uri)
    named = [name for name in study.manifest.get("models", {}) if external.is_code(name)]
    named = [name for name in named if fnmatchcase(name, chosen.get("name", "*")) and "best" not in chosen]
    for name in named:
        if name not in trusted:
            logger.warning(
                "%s also names %r: code, not run; read it, and name it in `trust_code` to run it", text, name
            )
    return [name for name in named if name in trusted]


def trained_by(study: Study, name: str) -> Checkpoint:
    """A study's own copy of a model that it trained; raises as ``read_model``."""
    return read_model(study.store, weights_file(name))


def read_model(store: Store, file: str) -> Checkpoint:
    """A trained model from a study's folder. Raises a UserError if another version wrote it, and a ValueError
    if it is incomplete or not a model.
    """
    try:
        return Checkpoint.from_bytes(store.read_bytes(file))
    except UnknownRecipe as error:
        raise UserError(
            f"{store.path(file)!r} was written by another version of advlab: {error}; use that version, or update this."
        ) from error


def stored(store: Store, name: str) -> Checkpoint | None:
    """A study's own copy of a model; None if it is absent or incomplete. Raises a UserError as ``read_model``."""
    try:
        return read_model(store, weights_file(name))
    except (FileNotFoundError, ValueError):
        return None


def _read(store: Store, file: str) -> Checkpoint:
    try:
        return read_model(store, file)
    except ValueError as error:
        raise UserError(
            f"{store.path(file)!r} cannot be used ({error}); run its study again, or leave it out with ?name=PATTERN."
        ) from error
