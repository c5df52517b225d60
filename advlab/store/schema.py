"""The columns of a study's Parquet files."""

import json
import math

import numpy as np
import pyarrow as pa

SHAPE_KEY = b"advlab.image_shape"

PREDICTIONS = pa.schema(
    [
        ("index", pa.int64()),  # position in the data set
        ("label", pa.int64()),
        ("clean_prediction", pa.int64()),  # the target model's prediction for the clean image
        ("prediction", pa.int64()),  # its prediction for the distorted image
        ("source_prediction", pa.int64()),  # the attacked model's own prediction for it; null for controls
        ("margin", pa.float32()),  # logit of the label minus the largest other logit
        ("rms", pa.float64()),  # √(Σ(x' − x)²/n), section 4.2
    ]
)

MATRIX = pa.schema(
    [
        ("source", pa.string()),
        ("target", pa.string()),
        ("n", pa.int64()),
        ("error_rate", pa.float64()),
        ("ci_low", pa.float64()),  # Wilson, 95%
        ("ci_high", pa.float64()),
        ("conditional_error_rate", pa.float64()),  # among the examples that the target classifies correctly when clean
        ("same_mistake_rate", pa.float64()),  # the target gives the attacked model's wrong answer; null for controls
        ("mean_rms", pa.float64()),
        ("clean_error_rate", pa.float64()),  # of the target on the clean images; null where a file lacks the column
    ]
)
BRIEF_MATRIX = pa.schema(list(MATRIX)[:-1])
"""What earlier revisions wrote."""


def examples(image_shape: tuple[int, ...]) -> pa.Schema:
    """One row per attacked example; ``image_shape`` is [C, H, W]."""
    return pa.schema(
        [
            ("index", pa.int64()),
            ("label", pa.int64()),
            ("target", pa.int64()),
            ("success", pa.bool_()),
            ("l2", pa.float64()),
            ("rms", pa.float64()),
            ("linf", pa.float64()),
            ("c", pa.float64()),
            ("evaluations", pa.int64()),
            ("survives_uint8", pa.bool_()),
            ("image", pa.list_(pa.float32(), math.prod(image_shape))),
        ],
        metadata={SHAPE_KEY: json.dumps(list(image_shape)).encode()},
    )


def image_column(images: np.ndarray) -> pa.FixedSizeListArray:
    """Images [N, ...] float32 as a column of flat, fixed-size lists."""
    flat = np.ascontiguousarray(images, dtype=np.float32).reshape(len(images), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


def decode_images(table: pa.Table) -> np.ndarray:
    """The ``image`` column as a float32 array [N, C, H, W]; raises a ValueError if the shape is another."""
    shape = json.loads((table.schema.metadata or {}).get(SHAPE_KEY, b"null")[:200])
    sizes = shape if isinstance(shape, list) and all(type(size) is int and 0 < size < 2**31 for size in shape) else []
    if not sizes or table.schema.field("image").type != pa.list_(pa.float32(), math.prod(sizes)):
        raise ValueError("it holds no images, or images of another shape than recorded")
    column = table.column("image").combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), *shape)
