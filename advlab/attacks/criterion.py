"""The criterion of success: the target is reached or, without one, the label is lost."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Criterion:
    """Success, per row, as a signed margin of the logits.

    Attributes:
        labels: [B] int64, the true classes.
        target: [B] int64, the classes aimed at, or None when any class but the label will do.
    """

    labels: Tensor
    target: Tensor | None = None

    def rows(self, rows: Tensor) -> "Criterion":
        """The criterion of a subset of the rows (LongTensor [b])."""
        return Criterion(self.labels[rows], None if self.target is None else self.target[rows])

    @property
    def away(self) -> Tensor:
        """[B] int64: the class that every margin is about: the target or, untargeted, the label."""
        return self.labels if self.target is None else self.target

    def others(self, logits: Tensor) -> Tensor:
        """[B, k]: the logits, with −∞ for the class `away`."""
        return logits.scatter(1, self.away[:, None], -torch.inf)

    def strongest(self, logits: Tensor) -> Tensor:
        """[B] int64: the class with the largest logit except `away`."""
        return self.others(logits).argmax(1)

    def gaps(self, logits: Tensor, rivals: Tensor) -> Tensor:
        """[B, m]: the margins to each of the rivals [B, m] int64: z_y − z_j, or z_j − z_t for a target."""
        gaps = logits.gather(1, self.away[:, None]) - logits.gather(1, rivals)
        return gaps if self.target is None else -gaps

    def weights(self, logits: Tensor, rival: Tensor) -> Tensor:
        """[B, k]: ∂ margin to the rivals [B] int64/∂ logits: ±1 at the two classes, 0 elsewhere."""
        sign = 1.0 if self.target is None else -1.0
        ends = torch.stack([self.away, rival], 1)
        return torch.zeros_like(logits).scatter(1, ends, logits.new_tensor([sign, -sign]).expand(len(logits), 2))

    def margin(self, logits: Tensor) -> Tensor:
        """[B]: positive while the attack fails, negative once it succeeds.

        Targeted: max_{j≠t} z_j − z_t. Untargeted: z_y − max_{j≠y} z_j.
        """
        chosen = logits.gather(1, self.away[:, None]).squeeze(1)
        others = self.others(logits).amax(1)
        return chosen - others if self.target is None else others - chosen

    def is_met(self, logits: Tensor) -> Tensor:
        """[B] bool: the margin is strictly negative (a NaN margin is a failure)."""
        return self.margin(logits) < 0

    def is_met_robustly(self, logits: Tensor, rounding: Tensor) -> Tensor:
        """[B] bool: met by more than the rounding of a forward pass in another batch could undo (`rounding_margin`)."""
        return self.margin(logits) <= -rounding

    def reached(self, logits: Tensor) -> Tensor:
        """[B] int64: the target or, untargeted, the strongest class except the label."""
        return self.strongest(logits) if self.target is None else self.target


ULPS = {torch.float16: 8, torch.bfloat16: 8}
"""Units in the last place of the largest logit that rounding may cost. Over many batch sizes margins differed by up to
14 on four MNIST networks, and by up to 21 on EfficientNet-Lite0; 48 cover it."""
REACH, LARGE_REACH = 104.0, 16.0
"""A class is not in play when its logit is below the largest by more than both, in nats and in multiples of the two
largest logits: e⁻¹⁰⁴ is zero in float32."""


def in_play(logits: Tensor) -> Tensor:
    """[B, k] bool: the classes that may win near the image; those masked by −∞ or a huge negative logit cannot."""
    two = logits.topk(2, 1).values
    largest, size = two[:, :1], torch.where(two.isinf(), 0, two).abs().amax(1, keepdim=True)
    return ~((logits < largest - (LARGE_REACH * size).clamp_min(REACH)) | logits.isinf())


def rounding_margin(logits: Tensor, precision: torch.dtype) -> Tensor:
    """[B]: how far beyond the boundary a point must lie to stay misclassified whatever batch it is evaluated in.

    The same image in batches of different sizes goes through different GEMM kernels, whose logits differ in the last
    digits. How much depends on the size of the terms summed, which the largest logit indicates: the largest at the
    clean image, since near the boundary the logits may happen to be small; and of the classes in play, since a mask is
    not a sum.

    Args:
        logits: [B, k], of the clean images.
        precision: the coarsest type that they were computed in.
    """
    size = torch.where(in_play(logits), logits, 0).abs().amax(1)
    return ULPS.get(precision, 48) * torch.finfo(precision).eps * size
