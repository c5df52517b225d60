"""Sanitised text for terminals and files: no control characters, no secrets."""

import logging
import os
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

MASK = "***"

_LONGEST = 400
"""Longest name that is shown in full; the middle of longer ones is omitted."""

_SECRET_NAME = (
    r"secret|token|passw(?:or)?d|credential|signature|api[_-]?key|access[_-]?key|account[_-]?key|private[_-]?key"
)
_IS_SECRET_NAME = re.compile(rf"{_SECRET_NAME}|^(?:sig|auth)$", re.IGNORECASE)
_WITH_PASSWORD = re.compile(r"(?<=://)[^\s/@:'\"]*:(?!\d+/)[^\s@'\"]*@")
"""``USER:PASSWORD@`` of a URI; a password may contain a slash, which also follows a port number."""
_USER_INFO = re.compile(
    r"(gs://anonymous@|(?:abfss?|hdfs)://[^\s/@:'\"]+@)"  # anonymous access, containers, user names
    r"|(?<=://)[^\s/@'\"]+@|(?<=%3A%2F%2F)[^\s&'\"]*?%40",
    re.IGNORECASE,
)

_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<![A-Za-z0-9])(?:"
    r"A(?:KIA|SIA|BIA|CCA|GPA|IDA|IPA|NPA|NVA|PKA|ROA|SCA)[A-Z0-9]{12,}"  # AWS: identifiers
    r"|(?:FwoG|IQoJ|FQoG)[A-Za-z0-9/+=_-]{20,}"  # AWS: session tokens
    r"|AIza[0-9A-Za-z_-]{30,}|ya29\.[0-9A-Za-z._-]+|1//0[0-9A-Za-z_-]{20,}|GOCSPX-[0-9A-Za-z_-]+"  # Google: OAuth
    r"|GOOG[0-9A-Z]{16,}"  # Google: HMAC identifiers
    r"|wandb_v\d+_[0-9A-Za-z_-]{20,}|local-[0-9a-f]{40}"  # Weights & Biases
    r"|hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+"  # JSON web tokens
    r")"
    r"|(?<![\w/.+-])[0-9a-f]{40}(?!\w)",  # Weights & Biases: old keys, which look like Git commits
    re.DOTALL,
)
_ASSIGNED = re.compile(
    rf"((?:{_SECRET_NAME})[\w-]*[\"']?\s*(?:=|:|%3[Dd])\s*[\"']?|[?&](?:sig|auth)=|Bearer\s+)([^\s\"'&,;]+)",
    re.IGNORECASE,
)
_SECRET_OPTION = re.compile(rf"--?[\w-]*(?:{_SECRET_NAME})[\w-]*", re.IGNORECASE)
_AWS_SECRET = re.compile(r"(?:(?<![A-Za-z0-9/+=])|(?<=://))[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])")
_SWITCHES = 13
"""Changes between lower case, upper case, digits and signs: 25 ± 3 in 40 random base64 characters, fewer in a path."""


def printable(text: object, longest: int | None = _LONGEST) -> str:
    """An untrusted string made safe for a terminal: on one line, with Python escapes in place of control characters,
    surrogates and bidirectional marks. The middle of text longer than ``longest`` is omitted.
    """
    shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in str(text))
    if longest is None or len(shown) <= longest:
        return shown
    return f"{shown[: longest // 2]}…{shown[-longest // 2 :]}"


def masked(text: str) -> str:
    """Text without secrets: user info of URIs, keys of AWS, Google, W&B and Hugging Face, the environment's."""
    for name, value in os.environ.items():
        if len(value) >= 16 and _IS_SECRET_NAME.search(name) and not value.startswith(("/", ".")) and value in text:
            text = text.replace(value, MASK)
    text = _USER_INFO.sub(lambda found: found[1] or f"{MASK}@", _WITH_PASSWORD.sub(f"{MASK}@", text))
    text = _ASSIGNED.sub(rf"\1{MASK}", _SHAPES.sub(MASK, text))
    return _AWS_SECRET.sub(lambda found: MASK if _is_random(found[0]) else found[0], text)


def masked_values(value: Any) -> Any:
    """As ``masked``, for strings in nested lists and mappings; also masks values by the names of their keys."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {
            key: MASK if isinstance(item, str) and item and _IS_SECRET_NAME.search(str(key)) else masked_values(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        before = [None, *value]
        return [
            MASK if isinstance(last, str) and _SECRET_OPTION.fullmatch(last) else masked_values(item)
            for last, item in zip(before, value, strict=False)
        ]
    return value


def has_credentials(uri: str) -> bool:
    """Whether a URI carries a password, a key or a token: in front of the host, or in a parameter."""
    return any(masked(spelt) != spelt for spelt in (uri, unquote(uri)))


class SafeFormatter(logging.Formatter):
    """Log lines, made safe by ``masked`` and ``printable``."""

    def format(self, record: logging.LogRecord) -> str:
        lines = masked(super().format(record)).split("\n")
        return "\n".join(printable(line, None) for line in lines)


def _is_random(text: str) -> bool:
    kinds = ["A" if c.isupper() else "a" if c.islower() else "0" if c.isdigit() else "/" for c in text]
    return sum(one != other for one, other in pairwise(kinds)) >= _SWITCHES and "A" in kinds
