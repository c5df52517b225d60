"""What every command of ``sweeps/`` shares: its common options, and how it ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import tyro
from rich.console import Console
from rich.markup import escape

from advlab import extensions
from advlab.errors import UserError, one_line
from advlab.text import SafeFormatter, masked

Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonOptions:
    """Options of every command."""

    address: str | None = None
    """Ray cluster to compute on: auto for the one this machine belongs to; a local Ray when absent."""

    out: str | None = None
    """Folder of the results, local or s3://…; a folder below runs/ named after the settings when absent."""

    wandb: Literal["online", "offline", "disabled"] = "disabled"
    """Weights & Biases logging."""


def require_at_least(*options: tuple[str, int, int]) -> None:
    """Raise a UserError for the first (option, value, least) whose value is below the least."""
    for option, value, least in options:
        if value < least:
            raise UserError(f"{option} {value} is impossible; choose at least {least}.")


def listed(text: str) -> list[str]:
    """``"a, b,"`` → the names in it."""
    return [name for part in text.split(",") if (name := part.strip())]


def run(description: str, options: type[Options], main: Callable[[Options], None]) -> None:
    """Parse the command line into ``options``, call ``main`` with it, and exit as users expect.

    A ``UserError`` is printed as one sentence and exits with status 2; a refusal of the system (disk full, storage
    out of reach) with 1; Ctrl-C with 130; anything else is a defect and keeps its traceback. Whatever is told, no
    secret and no control character of a file's is in it.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        extensions.load()
        main(tyro.cli(options, description=description, config=(tyro.conf.OmitArgPrefixes,)))
    except UserError as error:
        console.print("[bold red]error:[/]", escape(masked(one_line(error))))
        sys.exit(2)
    except OSError as error:
        told = escape(masked(one_line(error)))
        console.print(f"[bold red]error:[/] the system refused: {told}; what is finished is kept.")
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("\nstopped; what is finished is kept: the same command goes on from there.")
        sys.exit(130)
    except Exception:
        logging.exception("a defect of advlab:")
        sys.exit(1)
