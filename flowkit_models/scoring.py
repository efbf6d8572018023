"""Scores of an SR model on whole images, as the paper's section 4.2 measures them."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from .bicubic import bicubic_resize
from .imageflow import ImageFlow
from .images import to_float
from .metrics import consistency, diversity, psnr, ssim, to_uint8


@dataclass(frozen=True)
class Pair:
    """An HR image with its LR image, both uint8 (1, 3, H, W), and the bicubic upscale of the LR image."""

    hr: Tensor
    lr: Tensor
    bicubic: Tensor


def make_pairs(photos: dict[str, Tensor], scale: int) -> dict[str, Pair]:
    """Makes LR images (MATLAB-equivalent bicubic, 8 bits) of HR images (3, H, W), cropped to multiples of `scale`."""
    pairs = {}
    for name, photo in photos.items():
        height, width = (size // scale * scale for size in photo.shape[1:])
        hr = photo[None, :, :height, :width]
        lr = bicubic_resize(hr, Fraction(1, scale))
        pairs[name] = Pair(hr, lr, to_uint8(bicubic_resize(to_float(lr), scale)))
    return pairs


@torch.no_grad()
def psnr_at_zero(model: ImageFlow, pairs: dict[str, Pair]) -> float:
    """Mean PSNR at τ = 0 in dB: RGB, 8 bits, borders of `scale` pixels left out."""
    device = next(model.parameters()).device
    images = [
        (to_uint8(model.upscale(to_float(p.lr).to(device), temperature=0.0)[0].cpu()), p.hr) for p in pairs.values()
    ]
    return _mean([psnr(sr, hr, model.scale) for sr, hr in images])


@torch.no_grad()
def score(
    model: ImageFlow, pairs: dict[str, Pair], temperature: float = 0.8, draws: int = 5, seed: int = 0
) -> dict[str, Any]:
    """Scores a model and the bicubic upscale on test pairs.

    Args:
        model: in eval mode.
        pairs: test images by name.
        temperature: τ of the draws; τ = 0 is always scored as well.
        draws: samples per image for the means and the diversity.
        seed: of the draws and of the dequantisation noise in bits/dim.

    Returns:
        The means over the images: PSNR and SSIM (RGB, 8 bits, cropped borders) of bicubic, τ = 0 and τ, and their
        consistency with the LR file; diversity (grey levels); LR-PSNR of the generated LR; true bits per dim; the
        largest round-trip error; and the protocol that says all this in words.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    rows: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {
        "bicubic": [],
        "tau_0": [],
        f"tau_{temperature:g}": [],
    }
    spread, lr_psnr, bits, errors = [], [], [], []
    for pair in pairs.values():
        hr, lr = to_float(pair.hr).to(device), to_float(pair.lr).to(device)
        samples = model.upscale(lr, draws, temperature, generator).cpu()
        images = [pair.bicubic[None], model.upscale(lr, temperature=0.0).cpu(), samples]
        for row, batch in zip(rows.values(), images, strict=True):
            row.append(_compare(to_uint8(batch.flatten(0, 1)), pair, model.scale))
        if draws > 1:
            spread.append(diversity(samples))
        encoded = model.encode(hr)
        if encoded.lr is not None:
            lr_psnr.append(psnr(to_uint8(encoded.lr.cpu()), pair.lr))
            errors.append(float((model.decode(encoded.lr, encoded.latents) - hr).abs().max()))
        bits.append(model.bits_per_dim(hr, lr))
    table = {
        name: {key: _mean([row[i] for row in rows[name]]) for i, key in enumerate(("psnr", "ssim", "consistency"))}
        for name in rows
    }
    if spread:
        table[f"tau_{temperature:g}"]["diversity"] = _mean(spread)
    return {
        **table,
        "lr_psnr": _mean(lr_psnr),
        "consistency": table[f"tau_{temperature:g}"]["consistency"],
        "bits_per_dim": _mean(bits),
        "roundtrip_max_error": max(errors, default=math.nan),
        "protocol": {
            "images": list(pairs),
            "psnr, ssim": f"RGB, 8 bits, {model.scale} border pixels left out; mean over images and draws; dB",
            "lr": f"MATLAB-equivalent bicubic 1/{model.scale} with mirrored edges, 8 bits",
            "draws": draws,
            "temperature": temperature,
            "seed": seed,
            "diversity": "standard deviation over the draws of each sub-pixel, mean, in grey levels",
            "consistency": "PSNR between the bicubic of the 8-bit result and the LR file, dB; "
            f"the top-level value is at τ = {temperature:g}",
            "lr_psnr": "PSNR between the generated LR (8 bits) and the LR file, all pixels, dB",
            "bits_per_dim": "−log₂ p(x | y*) per sub-pixel of the dequantised HR image, y not rounded",
            "roundtrip_max_error": "largest |decode(encode(x)) − x| in float32, image range [0, 1]",
        },
    }


def _compare(images: Tensor, pair: Pair, scale: int) -> tuple[Tensor, Tensor, Tensor]:
    hr, lr = (x.expand(len(images), -1, -1, -1) for x in (pair.hr, pair.lr))
    return psnr(images, hr, scale), ssim(images, hr, scale), consistency(images, lr)


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack([value.double().mean() for value in values]).mean()) if values else math.nan
