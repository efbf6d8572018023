"""Test images: an HR image with its LR image."""

import math
from dataclasses import dataclass

from torch import Tensor

from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.resize import Edges, Ties, bicubic_to


@dataclass(frozen=True)
class Pair:
    """An HR image with its LR image, both uint8 (1, 3, H, W), and the bicubic upscale of the LR image."""

    hr: Tensor
    lr: Tensor
    bicubic: Tensor

    @classmethod
    def of(cls, hr: Tensor, lr: Tensor) -> "Pair":
        """A pair of uint8 images (3, H, W) and (3, h, w)."""
        return cls(hr[None], lr[None], to_uint8(bicubic_to(to_float(lr[None]), (hr.shape[1], hr.shape[2]))))


def make_pairs(photos: dict[str, Tensor], scale: float) -> dict[str, Pair]:
    """Makes pairs of HR images (3, H, W) and their LR images of 8 bits (`with_lr`), by name."""
    return {name: Pair.of(*with_lr(photo, scale)) for name, photo in photos.items()}


def with_lr(hr: Tensor, scale: float, edges: Edges = "mirror", ties: Ties = "even") -> tuple[Tensor, Tensor]:
    """An HR image, cropped, and its LR image by the MATLAB-equivalent bicubic.

    LR has ⌊side/scale⌋ pixels, and of HR so much is kept, at the top left, as LR times the scale makes, rounded: of a
    whole scale, the multiple of it.

    Args:
        hr: uint8 (3, H, W).
        scale: HR size over LR size, any number from 1 on.
        edges: of the bicubic.
        ties: of the bicubic.

    Raises:
        ValueError: if there are too few pixels.
    """
    low = [math.floor(side / scale + 1e-9) for side in hr.shape[1:]]
    if min(low) < 1:
        raise ValueError(f"{hr.shape[1]} × {hr.shape[2]} pixels are too few for ×{scale:g}")
    height, width = (min(side, round(short * scale)) for side, short in zip(hr.shape[1:], low, strict=True))
    hr = hr[:, :height, :width].contiguous()
    return hr, bicubic_to(hr, (low[0], low[1]), edges, ties)
