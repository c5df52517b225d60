"""Small networks of many kinds; their initial weights are those of `advlab.models.mlp.initialise`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class WinnersTakeAll(nn.Module):
    """k-winners-take-all (Xiao, Zhong & Zheng 2020): the largest ``share`` of an image's units pass, others are 0."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, units: Tensor) -> Tensor:
        flat = units.flatten(1)
        winners = max(1, round(self.share * flat.shape[1]))
        least = flat.topk(winners, dim=1).values[:, -1:]
        return (flat * (flat >= least)).view_as(units)


class Quantised(nn.Module):
    """Activations of ``bits`` bits in [0, ``top``]; the gradient passes straight through (Bengio et al. 2013)."""

    def __init__(self, bits: int, top: float = 4.0) -> None:
        super().__init__()
        self.step = top / (2**bits - 1)
        self.top = top

    def forward(self, units: Tensor) -> Tensor:
        clamped = units.clamp(0, self.top)
        return clamped + ((clamped / self.step).round() * self.step - clamped).detach()


ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {"relu": nn.ReLU, "kwta": WinnersTakeAll, "quantised": Quantised}


class Conv3x3(nn.Sequential):
    """Images [B, C, S, S] → logits [B, k]: 3×3 convolutions of so many ``filters``, each with activation and max
    pooling; two linear layers. ``setting`` is the share of units that passes ``kwta``, or the bits of ``quantised``.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        filters: Sequence[int] = (16, 32),
        hidden: int = 64,
        classes: int = 10,
        activation: str = "relu",
        setting: float | None = None,
    ) -> None:
        def active() -> nn.Module:
            return ACTIVATIONS[activation](*([] if setting is None else [setting]))

        layers: list[nn.Module] = []
        for before, after in zip([channels, *filters], filters, strict=False):
            layers += [nn.Conv2d(before, after, 3), active(), nn.MaxPool2d(2)]
            size = (size - 2) // 2
        layers += [nn.Flatten(), nn.Linear(filters[-1] * size * size, hidden), active(), nn.Linear(hidden, classes)]
        super().__init__(*layers)


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(self.body(maps) + self.shortcut(maps))


class ResNet(nn.Sequential):
    """Images [B, C, S, S] → logits [B, k]: the residual network for small images of He et al. 2016, section 4.2.

    ``depth`` is 6n + 2: three stages of n blocks. ``width`` is the maps of the first; later ones double them and halve
    their size.
    """

    def __init__(self, channels: int = 3, classes: int = 10, depth: int = 8, width: int = 16) -> None:
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
        for stage in range(3):
            for block in range((depth - 2) // 6):
                after = width * 2**stage
                layers.append(_Residual(before, after, 2 if stage and not block else 1))
                before = after
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        joint = self.queries_keys_values(self.norm(tokens)).view(batch, count, 3, self.heads, width // self.heads)
        attended = functional.scaled_dot_product_attention(*joint.permute(2, 0, 3, 1, 4))
        tokens = tokens + self.mixed(attended.transpose(1, 2).reshape(batch, count, width))
        return tokens + self.mlp(tokens)


class ViT(nn.Module):
    """Images [B, C, S, S] → logits [B, k]: a vision transformer (Dosovitskiy et al. 2021) that averages its tokens.

    Each block has attention and a layer of ``2 · width`` GELUs, each behind a LayerNorm; ``width`` is a multiple of
    ``heads``. Tokens are squares of side ``patch``; the remainder at the edges is ignored.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        classes: int = 10,
        width: int = 48,
        blocks: int = 4,
        patch: int = 7,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.places = nn.Parameter(torch.zeros((size // patch) ** 2, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(blocks)))
        self.classifier = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.classifier(self.blocks(tokens).mean(1))
