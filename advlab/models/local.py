"""A locally connected linear layer: receptive fields as of a convolution, but each position has its own filters.

Shapes: B images, C channels, [H, W] the input's size, [R, S] positions, K side of a receptive field, D = K·K·C, M maps.

Encoding, decoding and the gradient of the weights are the derivatives of one trilinear form, Σ codes · weight ·
patches, with respect to one of its factors; so each is a derivative of the others, to any order. No patches are copied:
one row of positions sees a band of K rows of the image. Laid out as [B, W, K·C], the band contains every receptive
field of that row as D consecutive numbers, so an overlapping view of it is the batch of matrices of a batched product.
Filters are contiguous along D as well: then D, the longest side, is contiguous in both factors of every product or in
its result.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Fields:
    """Receptive fields along one axis: the first starts at 0, and none extends beyond the axis."""

    size: int
    side: int
    stride: int = 1

    @property
    def places(self) -> int:
        return (self.size - self.side) // self.stride + 1

    def needs(self, first: int, last: int) -> tuple[int, int]:
        """The part [begin, end) of the axis that the positions [first, last) see."""
        return first * self.stride, (last - 1) * self.stride + self.side


class LocalLinear(nn.Module):
    """Images [B, C, H, W] → responses [B, M, R, S], without a bias; ``decode`` is the transposed map.

    ``weight`` is [R, S, M, D], or a DTensor sharded along R; then input and output are the rows of this process's
    shard. ``variance`` is that of an input value, 1 if whitening keeps all directions. ``precision`` is the type in
    which products are computed, row by row; results have the type of the input.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], maps: int, side: int, stride: int = 1, device: Any = None
    ) -> None:
        super().__init__()
        self.channels, self.maps, self.side, self.stride = channels, maps, side, stride
        self.fields = Fields(size[0], side, stride)
        self.width = size[1]
        places = Fields(size[1], side, stride).places
        shape = (self.fields.places, places, maps, side * side * channels)
        self.weight = nn.Parameter(torch.empty(shape, device=device))
        self.variance = nn.Buffer(torch.empty((), device=device))
        self.precision: torch.dtype | None = None

    def forward(self, images: Tensor) -> Tensor:
        return Encode.apply(self._cast(images), self.own_weight(), self.side, self.stride).to(images.dtype)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, M, R, S] → images [B, C, rows that they see, W]."""
        return Decode.apply(self._cast(codes), self.own_weight(), self.side, self.stride, self.width).to(codes.dtype)

    @property
    def length(self) -> Tensor:
        """[]: the norm of every filter for which WᵀW can be the projection onto the directions of the inputs.

        Away from the border there are M / (stride² · C) filters and ``variance`` directions per input number. Filters
        of a tight frame have the norm √(directions / filters); fewer filters than directions can be orthonormal.
        """
        return (self.variance * (self.stride**2 * self.channels / self.maps)).clamp_max(1).sqrt()

    @torch.no_grad()
    def keep_lengths(self) -> None:
        """Scale every filter to ``length``, in place; zero filters stay zero."""
        own = self.own_weight()
        norm = torch.linalg.vector_norm(own, dim=3, keepdim=True)
        own.mul_(self.length / norm.clamp_min(torch.finfo(own.dtype).tiny))

    @torch.no_grad()
    def smooth(self, kernel: Tensor) -> None:
        """Convolve every filter with ``kernel`` [C, C, k, k], in place, with zeros beyond its field."""
        for row in self.own_weight():
            filters = row.view(-1, self.side, self.side, self.channels).permute(0, 3, 2, 1)
            smoothed = functional.conv2d(filters, kernel, padding=kernel.shape[-1] // 2)
            row.copy_(smoothed.permute(0, 3, 2, 1).reshape(row.shape))

    def own_weight(self) -> Tensor:
        """The filters of this process; gradients flow to ``weight``."""
        return self.weight.to_local() if isinstance(self.weight, DTensor) else self.weight

    @property
    def first_row(self) -> int:
        """The row of positions at which they begin."""
        if not isinstance(self.weight, DTensor):
            return 0
        mesh = self.weight.device_mesh
        return min(len(self.weight), -(-len(self.weight) // mesh.size()) * mesh.get_local_rank())

    def _cast(self, values: Tensor) -> Tensor:
        return values if self.precision is None else values.to(self.precision)


class Encode(torch.autograd.Function):
    """Images [B, C, (R − 1)·stride + side, W] → responses [B, M, R, S] of every filter at its own position.

    ``weight`` is [R, S, M, D], the D numbers of a filter ordered by column, row and channel of its field.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, side: int, stride: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.settings = side, stride
        rows, places, maps, _ = weight.shape
        codes = images.new_empty(rows, places, maps, len(images))
        for row in range(rows):
            fields = _fields(images, row, side, stride).transpose(1, 2)
            torch.bmm(weight[row].to(images.dtype), fields, out=codes[row])
        return codes.permute(3, 2, 0, 1).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (images, weight), (side, stride), (grad,) = ctx.saved_tensors, ctx.settings, gradients
        to_images = Decode.apply(grad, weight, side, stride, images.shape[3]) if ctx.needs_input_grad[0] else None
        to_weight = _Correlate.apply(images, grad, side, stride, weight.dtype) if ctx.needs_input_grad[1] else None
        return to_images, to_weight, None, None


class Decode(torch.autograd.Function):
    """Codes [B, M, R, S] → images of a ``width``: the transpose of `Encode`, the sum of the filters, each times its
    response."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, weight: Tensor, side: int, stride: int, width: int) -> Tensor:
        ctx.save_for_backward(codes, weight)
        ctx.settings = side, stride
        rows, places, _, numbers = weight.shape
        channels = numbers // side**2
        by_row = codes.permute(2, 3, 0, 1).contiguous()
        images = codes.new_zeros(len(codes), channels, (rows - 1) * stride + side, width)
        # allocated once: new memory takes longer than the product
        products = codes.new_empty(places, len(codes), numbers)
        fields = products.view(places, len(codes), side, side * channels)
        for row in range(rows):
            torch.bmm(by_row[row], weight[row].to(codes.dtype), out=products)
            band = codes.new_zeros(width, len(codes), side * channels)
            for column in range(side):
                band[column : column + (places - 1) * stride + 1 : stride] += fields[:, :, column]
            part = images[:, :, row * stride : row * stride + side]
            part += band.view(width, len(codes), side, channels).permute(1, 3, 2, 0)
        return images

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (codes, weight), (side, stride), (grad,) = ctx.saved_tensors, ctx.settings, gradients
        to_codes = Encode.apply(grad, weight, side, stride) if ctx.needs_input_grad[0] else None
        to_weight = _Correlate.apply(grad, codes, side, stride, weight.dtype) if ctx.needs_input_grad[1] else None
        return to_codes, to_weight, None, None, None


class _Correlate(torch.autograd.Function):
    """Images and codes → [R, S, M, D], the gradient of the form with respect to the weight."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, codes: Tensor, side: int, stride: int, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(images, codes)
        ctx.settings = side, stride
        by_row = codes.permute(2, 3, 1, 0).contiguous()
        rows, places, maps, _ = by_row.shape
        weight = images.new_empty(rows, places, maps, images.shape[1] * side**2, dtype=dtype)
        for row in range(rows):
            fields = _fields(images, row, side, stride)
            if dtype == images.dtype:
                torch.bmm(by_row[row], fields, out=weight[row])
            else:
                weight[row] = torch.bmm(by_row[row], fields)
        return weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (images, codes), (side, stride), (grad,) = ctx.saved_tensors, ctx.settings, gradients
        to_images = Decode.apply(codes, grad, side, stride, images.shape[3]) if ctx.needs_input_grad[0] else None
        to_codes = Encode.apply(images, grad, side, stride) if ctx.needs_input_grad[1] else None
        return to_images, to_codes, None, None, None


def _fields(images: Tensor, row: int, side: int, stride: int) -> Tensor:
    """[S, B, D]: the receptive fields of one row of positions, an overlapping view of its band."""
    band = images[:, :, row * stride : row * stride + side].permute(0, 3, 2, 1).contiguous()
    count, width, _, channels = band.shape
    step = side * channels
    places = (width - side) // stride + 1
    return band.as_strided((places, count, side * step), (stride * step, width * step, 1))
