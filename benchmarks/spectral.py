"""The eight layers of Table 5: exact frame bounds compared with an SVD and with public methods that support strides.

    python benchmarks/spectral.py [--layers conv1,fc3] [--threads 1]

Layers are those of AlexNet without groups at 227 pixels, with PyTorch's default random weights, in double precision.
Seconds are processor time (all threads), so that other load does not matter; `error` is relative to the SVD. The
methods:

- `frame_bounds` (ours): lower and upper bound, exact.
- `upper_only` (ours): only the upper bound, exact, like all methods below except the SVD.
- `svd`: every singular value: an FFT of the polyphase kernel and one complex SVD per output frequency (Sedghi, Gupta &
  Long 2019, with the strides of Senderovich et al. 2022); for a linear layer `torch.linalg.svdvals`.
- `gram`: upper bound by Gram iteration on the same blocks (Delattre et al. 2023), on half of the frequencies, with six
  squarings.
- `power`: a lower estimate of the upper bound: 100 power iterations with the strided convolution and its transpose (Ryu
et al.
  2019).
- `toeplitz`: upper bound from the rows' generating polynomials on the grid (Araujo et al. 2021), on the polyphase
  kernel.
- `fantastic-four`: upper bound from four unfoldings of the kernel (Singla & Feizi 2021); strides can only lower the
  norm.

The last two only support convolutions.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from advlab.analysis import frame_bounds
from advlab.analysis.frames import torus
from advlab.models import alexnet

Bounds = tuple[float | None, float]
SIZES = {"conv1": 227, "conv2": 27, "conv3": 13, "conv4": 13, "conv5": 13, "fc1": 0, "fc2": 0, "fc3": 0}
SQUARINGS = 6
POWER_ITERATIONS = 100


def ours(layer: nn.Module, size: int) -> Bounds:
    bounds = frame_bounds(layer, size or None)
    return bounds.lower, bounds.upper


def ours_upper(layer: nn.Module, size: int) -> Bounds:
    return None, frame_bounds(layer, size or None, upper_only=True).upper


def blocks(layer: nn.Module, size: int) -> Tensor:
    """[W, F, P] for every output frequency; a linear layer is one block."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        return weight[None]
    symbol = torus(layer, (size, size))  # its taps are the polyphase kernel
    kernel = weight.new_zeros(*symbol.taps_GQFP.shape[2:], *symbol.grid)
    for tap, offset in zip(symbol.taps_GQFP[0], symbol.offsets_Qd.tolist(), strict=True):
        kernel[(..., *offset)] += tap
    return torch.fft.fft2(kernel).flatten(2).permute(2, 0, 1)


def svd(layer: nn.Module, size: int) -> Bounds:
    values = torch.linalg.svdvals(blocks(layer, size))
    return float(values.min()), float(values.max())


def gram(layer: nn.Module, size: int) -> Bounds:
    matrices = blocks(layer, size)
    if isinstance(layer, nn.Conv2d):
        matrices = matrices[: len(matrices) // 2 + 1]
    if matrices.shape[1] < matrices.shape[2]:
        matrices = matrices.mH
    log_scale = torch.zeros(len(matrices), dtype=torch.float64)
    for _ in range(SQUARINGS):
        norm = torch.linalg.matrix_norm(matrices)
        matrices = matrices / norm[:, None, None]
        log_scale = 2 * log_scale + 2 * norm.log()
        matrices = matrices.mH @ matrices
    logs = (torch.linalg.matrix_norm(matrices).log() + log_scale) / 2**SQUARINGS
    return None, float(logs.max().exp())


def power(layer: nn.Module, size: int) -> Bounds:
    weight = layer.weight.detach()
    torch.manual_seed(0)
    norm = 0.0
    if isinstance(layer, nn.Linear):
        vector = torch.randn(weight.shape[1], dtype=weight.dtype)
        for _ in range(POWER_ITERATIONS):
            stretched = weight @ (vector / vector.norm())
            norm, vector = float(stretched.norm()), weight.mT @ stretched
        return None, norm
    stride, kernel = layer.stride[0], layer.kernel_size[0]
    size = -(-size // stride) * stride
    vector = torch.randn(1, weight.shape[1], size, size, dtype=weight.dtype)
    for _ in range(POWER_ITERATIONS):
        wrapped = functional.pad(vector / vector.norm(), (0, kernel - 1) * 2, mode="circular")
        stretched = functional.conv2d(wrapped, weight, stride=stride)[..., : size // stride, : size // stride]
        norm = float(stretched.norm())
        back = functional.conv_transpose2d(stretched, weight, stride=stride)
        vector = torch.zeros_like(vector)
        for rows in range(0, back.shape[2], size):
            for columns in range(0, back.shape[3], size):
                piece = back[:, :, rows : rows + size, columns : columns + size]
                vector[:, :, : piece.shape[2], : piece.shape[3]] += piece
    return None, norm


def toeplitz(layer: nn.Module, size: int) -> Bounds:
    squares = blocks(layer, size).abs().square()
    by_output, by_input = (squares.sum(axis).max(0).values.sum() for axis in (2, 1))
    return None, math.sqrt(float(torch.minimum(by_output, by_input)))


def fantastic_four(layer: nn.Module, _size: int) -> Bounds:
    weight = layer.weight.detach()
    outputs, inputs, height, width = weight.shape
    unfolded = [
        weight.permute(0, 2, 1, 3).reshape(outputs * height, inputs * width),
        weight.permute(0, 3, 1, 2).reshape(outputs * width, inputs * height),
        weight.reshape(outputs, -1),
        weight.permute(0, 2, 3, 1).reshape(-1, inputs),
    ]
    return None, math.sqrt(height * width) * min(float(torch.linalg.matrix_norm(matrix, 2)) for matrix in unfolded)


METHODS: dict[str, Callable[[nn.Module, int], Bounds]] = {
    "frame_bounds": ours, "upper_only": ours_upper, "svd": svd, "gram": gram, "power": power, "toeplitz": toeplitz,
    "fantastic-four": fantastic_four,
}  # fmt: skip
CONVOLUTIONS_ONLY = ("toeplitz", "fantastic-four")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default=",".join(SIZES))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    layers = [module for module in alexnet.random().double() if isinstance(module, nn.Conv2d | nn.Linear)]
    named = dict(zip(SIZES, layers, strict=True))
    total = dict.fromkeys(METHODS, 0.0)
    print("| layer | method | seconds | lower | upper | error of upper |\n|---|---|---:|---:|---:|---:|", flush=True)
    for name in options.layers.split(","):
        exact = math.nan
        for method in options.methods.split(","):
            if method in CONVOLUTIONS_ONLY and isinstance(named[name], nn.Linear):
                continue
            started = time.process_time()
            lower, upper = METHODS[method](named[name], SIZES[name])
            seconds = time.process_time() - started
            total[method] += seconds
            exact = upper if method == "frame_bounds" else exact
            told = "–" if lower is None else f"{lower:.6g}"
            print(
                f"| {name} | {method} | {seconds:.2f} | {told} | {upper:.6f} | {upper / exact - 1:+.1e} |", flush=True
            )
    for method in options.methods.split(","):
        print(f"| all | {method} | {total[method]:.2f} | | | |")


if __name__ == "__main__":
    main()
