"""Sizes of a LINF."""

from dataclasses import dataclass
from typing import Literal

from flowkit_models.models.checks import check_fields


@dataclass(frozen=True)
class LINFConfig:
    """Sizes of a LINF. The defaults are the published model of single pixels with EDSR-baseline as its encoder.

    Attributes:
        scale: the largest factor that it is trained for; what `upscale` takes where it is told none.
        patch: side of the square of HR pixels that are modelled together: 1 for fidelity, 3 for generation.
        steps: linear layers, each with a shift and a scale given the LR image; a last linear layer follows.
        encoder: "edsr", residual blocks; "rrdb", the extractor of HCFlow's and SRFlow's papers.
        blocks, features: number of its blocks, and their width.
        growth: growth of the dense blocks of "rrdb".
        width: amplitudes of a pixel (`flowkit.nets.LocalFourier`).
        hidden, depth: width and number of the hidden layers that make the parameters.
        floor: what is added to the sigmoid of a scale, so that the inverse divides by no less. Published: 1e-4; ten
            layers together can make 1e-40 of it.
        quant: dequantisation noise is uniform of width 1/quant, centred.
        noisy: `nll` draws that noise when it is given none.
        purpose: a LINF is for super-resolution.
    """

    scale: int = 4
    patch: int = 1
    steps: int = 10
    encoder: Literal["edsr", "rrdb"] = "edsr"
    blocks: int = 16
    features: int = 64
    growth: int = 32
    width: int = 256
    hidden: int = 256
    depth: int = 3
    floor: float = 1e-4
    quant: int = 256
    noisy: bool = False
    purpose: Literal["sr"] = "sr"

    def __post_init__(self) -> None:
        check_fields("LINF", self, steps=0, blocks=0, depth=0)

    @property
    def channels(self) -> int:
        """D, numbers of a patch."""
        return 3 * self.patch**2
