"""Images in [0, 1] with labels, fetched on first use: ``data.load("mnist", split="train")``."""

import os
from pathlib import Path

import platformdirs
import torch

from advlab.data import catalogue, fetch, folder, idx, splits
from advlab.data.catalogue import DATASETS
from advlab.data.dataset import Dataset
from advlab.data.folder import ImageFolder
from advlab.data.splits import SPLITS

__all__ = ["DATASETS", "SPLITS", "Dataset", "ImageFolder", "cache_dir", "load"]


def cache_dir() -> Path:
    """The folder of cached data sets and trained models: ``$ADVLAB_CACHE``, or the user's cache folder."""
    override = os.environ.get("ADVLAB_CACHE")
    return Path(override).expanduser() if override else platformdirs.user_cache_path("advlab")


def load(
    name: str,
    split: str = "train",
    *,
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
    size: int | None = None,
    margin: float = folder.MARGIN,
) -> Dataset:
    """A split of a data set, fetched on first use and verified on every use.

    Args:
        name: one of ``DATASETS``, or ``folder:PATH[?size=N]`` or ``imagenet:PATH`` (see ``advlab.data.folder``).
        split: one of ``SPLITS``: ``train`` (60,000; CIFAR-10 has 50,000), ``test`` (10,000), ``validation`` (the last
            10,000 of train), ``fit`` (the others), ``p1`` and ``p2`` (disjoint random halves of train; ``p1@3`` is the
            draw of seed 3).
        seed: of ``p1`` and ``p2`` without a seed in the name.
        root: a directory to use in place of ``cache_dir() / "data"``; the files lie in ``root/name``.
        size: height and width that the images of a folder are resized to.
        margin: share of the resized shorter side that is kept; 1 keeps all of it.

    Raises:
        UserError: an unknown name or split, a negative seed, or data that can neither be found nor fetched.
    """
    if folder.is_folder(name):
        return folder.load(name, split, size, margin)
    entry, split = catalogue.find(name), splits.full_name(split, seed)
    files = entry.test if split == "test" else entry.train
    directory = (cache_dir() / "data" if root is None else Path(root).expanduser()) / name
    pixels, classes = (torch.from_numpy(idx.parse(content)) for content in fetch.read(entry, files, directory))
    index = splits.positions(split, len(classes))
    # Select rows while they are bytes: as float32 the whole file would take four times the memory.
    images = pixels[index].to(torch.float32).div_(255)
    images = images.unsqueeze(1) if images.ndim == 3 else images
    return Dataset(name, split, images, classes[index].long(), index, entry.class_names)
