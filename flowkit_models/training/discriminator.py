"""Discriminator of HCFlow++ and IRN+: VGG-like, down to a 32nd of the crop."""

import torch.nn.functional as F
from torch import Tensor, nn

SHRINK = 32
"""Crop over the side of the last feature map: five convolutions of stride 2."""


class Discriminator(nn.Module):
    """Tells real crops from generated ones: logits, positive for real. Its names are the official ones.

    Args:
        size: side of the crops, at least 32 pixels; HCFlow++ takes 160, IRN+ 144. The last layers depend on it.
        features: channels of the first layers.

    Raises:
        ValueError: if the crops are too small for it; from a call, if they are of another size.
    """

    def __init__(self, size: int = 160, features: int = 64) -> None:
        super().__init__()
        if size < SHRINK:
            raise ValueError(f"Discriminator: crops need at least {SHRINK} pixels a side, got {size}")
        self.size = size
        widths = [features * factor for factor in (1, 2, 4, 8, 8)]
        below = 3
        for i, width in enumerate(widths):
            self.add_module(f"conv{i}_0", nn.Conv2d(below, width, 3, padding=1, bias=i == 0))
            if i > 0:
                self.add_module(f"bn{i}_0", nn.BatchNorm2d(width))
            self.add_module(f"conv{i}_1", nn.Conv2d(width, width, 4, 2, padding=1, bias=False))
            self.add_module(f"bn{i}_1", nn.BatchNorm2d(width))
            below = width
        self.linear1 = nn.Linear(below * (size // SHRINK) ** 2, 100)
        self.linear2 = nn.Linear(100, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Crops (B, 3, size, size) to logits (B, 1)."""
        if x.shape[1:] != (3, self.size, self.size):
            raise ValueError(f"Discriminator: made for crops of {self.size} × {self.size}, got {tuple(x.shape)}")
        layers = dict(self.named_children())
        for i in range(5):
            for j in range(2):
                x = layers[f"conv{i}_{j}"](x)
                norm = layers.get(f"bn{i}_{j}")
                x = F.leaky_relu(x if norm is None else norm(x), 0.2)
        logit: Tensor = self.linear2(F.leaky_relu(self.linear1(x.flatten(1)), 0.2))
        return logit
