"""Conversion between columns of numbers and Arrow tables."""

from dataclasses import fields

import numpy as np
import pyarrow as pa

from advlab.store import schema
from advlab.transfer.evaluate import Answers
from advlab.transfer.generate import Examples


def examples_to_arrow(examples: Examples) -> pa.Table:
    """Rows of ``examples/``; a NaN ``c`` becomes null."""
    columns = {f.name: getattr(examples, f.name) for f in fields(Examples)}
    images = columns.pop("images")
    columns |= {"c": pa.array(examples.c, mask=np.isnan(examples.c)), "image": schema.image_column(images)}
    return pa.table(columns, schema=schema.examples(images.shape[1:]))


def examples_from_arrow(table: pa.Table) -> Examples:
    """The inverse of ``examples_to_arrow``."""
    columns = {f.name: table.column(f.name).to_numpy() for f in fields(Examples) if f.name not in ("images", "c")}
    c = table.column("c").cast(pa.float64()).fill_null(float("nan")).to_numpy()
    return Examples(**columns, c=c, images=schema.decode_images(table))


def predictions_to_arrow(examples: Examples, clean: Answers, distorted: Answers, source: Answers | None) -> pa.Table:
    """Rows of ``predictions/`` of one target; ``source`` has the attacked model's own predictions, if there is one."""
    answers = [examples.index, examples.label, clean.prediction, distorted.prediction]
    own = pa.nulls(len(examples.index), pa.int64()) if source is None else pa.array(source.prediction)
    arrays = [*map(pa.array, answers), own, pa.array(distorted.margin), pa.array(examples.rms)]
    return pa.table(arrays, schema=schema.PREDICTIONS)
