"""Unpack images from Parquet or WebDataset files into folders of classes, by Ray Data, for --data folder:PATH."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from advlab.command import run
from advlab.engine.session import session
from advlab.studies.unpack import UnpackConfig, unpack


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line."""

    unpack: UnpackConfig
    address: str | None = None
    """Ray cluster to work on: auto for the one this machine belongs to; a local Ray when absent."""


def main(options: Options) -> None:
    with session(options.address):
        total = unpack(options.unpack)
    Console().print(f"{total} images: --data folder:{options.unpack.out}", soft_wrap=True)


if __name__ == "__main__":
    run(__doc__, Options, main)
