"""Printed text holds no control characters and no secrets; all other text is unchanged."""

from __future__ import annotations

import base64
import logging
import random
import string

import pytest

from advlab import text
from advlab.errors import UserError, one_line
from advlab.report.tracker import masked_values as config_of_tracker
from advlab.store import Store, provenance

LOWER, UPPER, HEX = string.ascii_lowercase, string.ascii_uppercase, "0123456789abcdef"
WORD = string.ascii_letters + string.digits


def drawn(draw: random.Random, letters: str, length: int) -> str:
    return "".join(draw.choice(letters) for _ in range(length))


def keys(draw: random.Random) -> list[str]:
    """Fakes, made now, of the shapes that the services give their keys."""
    return [
        draw.choice(["AKIA", "ASIA", "AROA"]) + drawn(draw, UPPER + string.digits, 16),
        base64.b64encode(draw.randbytes(30)).decode(),  # an AWS secret, 40 of base64
        "IQoJ" + base64.b64encode(draw.randbytes(120)).decode(),
        "AIza" + drawn(draw, WORD + "-_", 35),
        "ya29." + drawn(draw, WORD + "-_", 60),
        "GOCSPX-" + drawn(draw, WORD + "-_", 28),
        "GOOG1E" + drawn(draw, UPPER + string.digits, 55),
        f"-----BEGIN PRIVATE KEY-----\n{drawn(draw, WORD, 200)}\n-----END PRIVATE KEY-----",
        drawn(draw, HEX, 40),  # W&B's of old
        "wandb_v1_" + drawn(draw, WORD, 60),
        "hf_" + drawn(draw, WORD, 34),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_keys_are_masked_wherever_they_stand(seed: int) -> None:
    for key in keys(random.Random(seed)):
        for told in (
            "{}",
            "--key {} --out runs/x",
            "WANDB_API_KEY={}",
            '{{"secret_access_key": "{}"}}',
            "s3://{}@bucket/x",
        ):
            shown = text.masked(told.format(key))
            assert key not in shown, told
            assert text.MASK in shown
        command = provenance.describe(["sweep.py", "--wandb-key", key, f"--out=s3://id:{key}@bucket/x"])["command"]
        assert key not in " ".join(command)
        assert key not in str(config_of_tracker({"nested": [{"value": key}]}))


def test_a_value_with_a_telling_name_is_masked_whatever_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    assert text.masked_values({"api_key": "short", "models": "paper"}) == {"api_key": text.MASK, "models": "paper"}
    assert text.masked_values(["--token", "short", "--out", "x"]) == ["--token", text.MASK, "--out", "x"]
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "of no shape at all")
    assert text.masked("it says: of no shape at all.") == f"it says: {text.MASK}."


@pytest.mark.parametrize(
    "plain",
    [
        "python sweeps/transfer_matrix.py --models paper --out runs/demo",
        "/home/Alice/Runs2024/Models/Final/Xy12/abc",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",  # a fingerprint
        "runs/0123456789abcdef0123456789abcdef01234567/study.json",
        "https://storage.example.org:9000/bucket@2",
        "gs://anonymous@bucket/x",
        "the signature of a function; tokens and secrets",
    ],
)
def test_what_is_no_secret_stays(plain: str) -> None:
    assert text.masked(plain) == plain


@pytest.mark.parametrize(
    ("uri", "is_refused"),
    [
        ("s3://id:secret@bucket/x", True),
        ("s3://id:sec/ret@bucket/x", True),
        ("s3://id@bucket/x", True),
        ("gs://id:secret@bucket/x", True),
        ("abfs://name:secret@container/x", True),
        ("s3://bucket/x?secret_key=abc", True),
        ("s3://bucket/x?endpoint_override=http%3A%2F%2Fid%3Asecret%40host", True),
        ("abfs://container@account.dfs.core.windows.net/x", False),
        ("s3://bucket/x?endpoint_override=storage.example.org%3A9000&scheme=https&region=us-east-1", False),
    ],
)
def test_uris_with_credentials(uri: str, is_refused: bool) -> None:
    assert text.has_credentials(uri) == is_refused
    if is_refused:
        with pytest.raises(UserError, match=r"contains credentials.*leave them out, and set them in the env") as caught:
            Store(uri)
        assert "secret@" not in str(caught.value)
        assert "abc" not in str(caught.value)


def test_control_characters_are_spelt_out() -> None:
    hostile = "a\x1b[2J\x9b1m\r\n\u202etxt\ud800\u2028b"
    assert text.printable(hostile) == r"a\x1b[2J\x9b1m\r\n\u202etxt\ud800\u2028b"
    assert text.printable("λ = 1e-4, 字 😀") == "λ = 1e-4, 字 😀"
    assert len(text.printable("x" * 10_000)) < 500


def test_logs_are_masked_and_printable() -> None:
    record = logging.LogRecord(
        "x", logging.INFO, "x.py", 1, "%s is out of reach\n%s", ("s3://id:key@b", "\x1b[2J"), None
    )
    assert text.SafeFormatter("%(message)s").format(record) == f"s3://{text.MASK}@b is out of reach\n\\x1b[2J"


def test_a_message_names_no_address_in_memory() -> None:
    assert one_line(OSError("cannot identify\nfile <_io.BytesIO object at 0x7fcc2c378630>.")) == "cannot identify file."
