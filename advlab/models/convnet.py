"""The paper's "Conv": one convolution, max pooling, a fully connected layer, dropout, softmax (section 2)."""

from torch import nn


class ConvNet(nn.Sequential):
    """Images [B, C, S, S] → logits [B, k]; ReLU after the convolution and after the fully connected layer."""

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        filters: int = 32,
        kernel: int = 5,
        hidden: int = 128,
        classes: int = 10,
        dropout: float = 0.5,
    ) -> None:
        pooled = (size - kernel + 1) // 2
        super().__init__(
            nn.Conv2d(channels, filters, kernel),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(filters * pooled * pooled, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )
