"""Test images: an HR image with its LR image."""

from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.resize import bicubic_resize


@dataclass(frozen=True)
class Pair:
    """An HR image with its LR image, both uint8 (1, 3, H, W), and the bicubic upscale of the LR image."""

    hr: Tensor
    lr: Tensor
    bicubic: Tensor

    @classmethod
    def of(cls, hr: Tensor, lr: Tensor) -> "Pair":
        """A pair of uint8 images (3, H, W) and (3, h, w)."""
        scale = hr.shape[-1] // lr.shape[-1]
        return cls(hr[None], lr[None], to_uint8(bicubic_resize(to_float(lr[None]), scale)))


def make_pairs(photos: dict[str, Tensor], scale: int) -> dict[str, Pair]:
    """Makes LR images (MATLAB-equivalent bicubic, 8 bits) of HR images (3, H, W), cropped to multiples of `scale`."""
    pairs = {}
    for name, photo in photos.items():
        height, width = (size // scale * scale for size in photo.shape[1:])
        hr = photo[:, :height, :width]
        pairs[name] = Pair.of(hr, bicubic_resize(hr, Fraction(1, scale)))
    return pairs
