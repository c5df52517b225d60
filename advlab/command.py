"""The common options of all commands, their exit codes, and how their errors are printed."""

import logging
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_type_hints

import tyro
from rich.console import Console
from rich.markup import escape

from advlab import extensions
from advlab.errors import UserError, one_line
from advlab.store import study
from advlab.text import SafeFormatter, masked

Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonOptions:
    """Options of every command."""

    address: str | None = None
    """Address of a Ray cluster: auto for the one that this machine belongs to; by default a local Ray."""
    out: str | None = None
    """Folder of the results, local or s3://…; by default a folder below runs/ named after the settings."""
    wandb: Literal["online", "offline", "disabled"] = "disabled"
    """Weights & Biases logging."""


def also(*flags: str) -> Any:
    """Further spellings of an option, in an Annotated: what one study calls ``--dataset`` another calls ``--data``."""
    return tyro.conf.arg(aliases=flags)


def require_at_least(options: Any, **least: int) -> None:
    """Raise a UserError for the first of these fields whose value is given and below its least."""
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')} {value} is impossible; choose at least {low}.")


def listed(text: str) -> list[str]:
    """``"a, b,"`` → the names in it."""
    return [name for part in text.split(",") if (name := part.strip())]


def option_names(options: Any) -> set[str]:
    """Names of a command line's options: the fields of its class, and those of the classes nested in it."""
    names: set[str] = set()
    for name, hint in get_type_hints(options).items():
        groups = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
        names = names.union([] if groups else [name], *map(option_names, groups))
    return names


def with_flags(text: str, names: set[str]) -> str:
    """Replace `` `name` `` for each of the options ``names`` by its flag, as `` `batch_size` `` by --batch-size: code
    below the commands is called from Python too, so its messages give arguments in backquotes.
    """
    return re.sub(r"`(\w+)`", lambda found: f"--{found[1].replace('_', '-')}" if found[1] in names else found[0], text)


class _FlagFormatter(SafeFormatter):
    """Log lines with flags in place of argument names."""

    def __init__(self, names: set[str]) -> None:
        super().__init__("%(message)s")
        self.names = names

    def format(self, record: logging.LogRecord) -> str:
        return with_flags(super().format(record), self.names)


def run(description: str, options: type[Options], main: Callable[[Options], None]) -> None:
    """Parse the command line into ``options``, call ``main`` with it, and exit as users expect.

    A ``UserError`` is printed as one sentence and exits with status 2, an error of the operating system (disk full,
    storage unreachable) exits with 1, Ctrl-C with 130; anything else is a defect and prints its traceback. Secrets
    and control characters are removed from all that is printed.
    """
    names = option_names(options)
    handler = logging.StreamHandler()
    handler.setFormatter(_FlagFormatter(names))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def end(status: int, message: str) -> NoReturn:
        console.print("[bold red]error:[/]", escape(masked(message)))
        sys.exit(status)

    try:
        extensions.load()
        main(tyro.cli(options, description=description, config=(tyro.conf.OmitArgPrefixes,)))
    except UserError as error:
        end(2, with_flags(one_line(error), names))
    except OSError as error:
        end(1, f"the operating system reports: {one_line(error)}; finished work is kept.")
    except KeyboardInterrupt:
        console.print("\nstopped; finished work is kept: the same command continues from there.")
        sys.exit(130)
    except Exception as error:
        if not study.opened:
            logging.exception("a defect of advlab:")
            sys.exit(1)
        told = f"{study.opened[-1]!r} ({type(error).__name__}: {one_line(error)[:300]})"
        with tempfile.NamedTemporaryFile("w", prefix="advlab-", suffix=".log", delete=False) as log:
            log.write(masked(traceback.format_exc()))
        end(
            1,
            f"advlab failed on what it read in {told}; finished work is kept. Choose another folder; if this one is "
            f"your own, it is a defect: report {log.name}.",
        )
