"""Scores of a model on whole images, as the paper's sections 4.2 and 4.3 measure them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from flowkit_models.data.image_pair import Pair
from flowkit_models.images.convert import luma, to_float, to_uint8
from flowkit_models.metrics.full_reference import consistency, psnr, ssim
from flowkit_models.metrics.stochastic import diversity
from flowkit_models.models.base import ImageFlow

Distance = Callable[[Tensor, Tensor], Tensor]
"""A learned distance of two batches of images in [0, 1], (B,), such as LPIPS."""


@torch.no_grad()
def score(
    model: ImageFlow,
    pairs: dict[str, Pair],
    temperature: float = 0.8,
    draws: int = 5,
    seed: int = 0,
    distances: Mapping[str, Distance] | None = None,
) -> dict[str, Any]:
    """Scores a super-resolution model and the bicubic upscale on test pairs.

    Args:
        model: in eval mode.
        pairs: test images by name.
        temperature: τ of the draws; τ = 0 is always scored as well.
        draws: samples per image for the means and the diversity.
        seed: of the draws and of the dequantisation noise in bits/dim.
        distances: learned distances by name, to be scored as well.

    Returns:
        The means over the images: PSNR and SSIM (RGB, 8 bits, cropped borders) of bicubic, τ = 0 and τ, and their
        consistency with the LR file; diversity (grey levels); true bits per dim; LR-PSNR of the generated LR and the
        largest round-trip error, for a model that makes LR; and the protocol that says all this in words.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    warm = f"tau_{temperature:g}"
    rows: dict[str, list[dict[str, Tensor]]] = {"bicubic": [], "tau_0": [], warm: []}
    spread, lr_psnr, bits, errors = [], [], [], []
    for pair in pairs.values():
        lr = to_float(pair.lr).to(device)
        samples = model.upscale(lr, draws, temperature, generator).cpu()
        images = [pair.bicubic[None], model.upscale(lr, temperature=0.0).cpu(), samples]
        for row, batch in zip(rows.values(), images, strict=True):
            row.append(_compare(to_uint8(batch.flatten(0, 1)), pair, model.scale, distances or {}))
        if draws > 1:
            spread.append(diversity(samples))
        hr = _divisible(to_float(pair.hr), model).to(device)
        lr = lr[..., : hr.shape[2] // model.scale, : hr.shape[3] // model.scale]
        encoded = model.encode(hr, lr)
        if encoded.lr is not None:
            lr_psnr.append(psnr(to_uint8(encoded.lr.cpu()), to_uint8(lr.cpu())))
        again = model.decode(lr if encoded.lr is None else encoded.lr, encoded.latents, lr)
        errors.append(float((again - hr).abs().max()))
        bits.append(model.bits_per_dim(hr, lr))
    table = {name: _means(row) for name, row in rows.items()}
    if spread:
        table[warm]["diversity"] = _mean(spread)
    return {
        **table,
        **({"lr_psnr": _mean(lr_psnr)} if lr_psnr else {}),
        "consistency": table[warm]["consistency"],
        "bits_per_dim": _mean(bits),
        "roundtrip_max_error": max(errors, default=math.nan),
        "protocol": {
            "images": list(pairs),
            "psnr, ssim": f"RGB, 8 bits, {model.scale} border pixels left out; mean over images and draws; dB",
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


@torch.no_grad()
def score_rescaling(
    model: ImageFlow, pairs: dict[str, Pair], temperature: float = 1.0, draws: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Scores a rescaling model, and bicubic down and up again, on test images (section 4.3, Table 4).

    Args:
        model: in eval mode, one that makes LR images.
        pairs: test images by name; their LR images are the bicubic ones.
        temperature: τ of the latents that the image is made again with.
        draws: how often.
        seed: of the draws.

    Returns:
        The means over the images: PSNR and SSIM on Y (8-bit images, Y not rounded, cropped borders) of bicubic and of
        the model, PSNR of the model's LR against the bicubic one, and the protocol.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    rows: dict[str, list[dict[str, Tensor]]] = {"bicubic": [], "model": []}
    for pair in pairs.values():
        lr = model.downscale(to_float(pair.hr).to(device))
        height, width = pair.hr.shape[2:]
        again = to_uint8(model.upscale(lr, draws, temperature, generator).cpu().flatten(0, 1))[..., :height, :width]
        rows["bicubic"].append(_compare_luma(pair.bicubic, pair.hr, model.scale))
        rows["model"].append(_compare_luma(again, pair.hr, model.scale))
        if lr.shape == pair.lr.shape:
            rows["model"][-1]["lr_psnr"] = psnr(to_uint8(lr.cpu()), pair.lr)
    return {
        **{name: _means(row) for name, row in rows.items()},
        "protocol": {
            "images": list(pairs),
            "psnr_y, ssim_y": f"Y (not rounded), 8-bit images, {model.scale} border pixels left out; mean over images",
            "lr": "made by the model, 8 bits; for bicubic the MATLAB-equivalent bicubic",
            "lr_psnr": "PSNR between the model's LR and the bicubic LR, RGB, 8 bits, all pixels, dB",
            "temperature": temperature,
            "draws": draws,
            "seed": seed,
        },
    }


def _divisible(hr: Tensor, model: ImageFlow) -> Tensor:
    """The part of an image that the model can encode."""
    height, width = (size // model.flow.stride * model.flow.stride for size in hr.shape[2:])
    return hr[..., :height, :width]


def _compare(images: Tensor, pair: Pair, scale: int, distances: Mapping[str, Distance]) -> dict[str, Tensor]:
    hr, lr = (x.expand(len(images), -1, -1, -1) for x in (pair.hr, pair.lr))
    learned = {name: distance(to_float(images), to_float(hr)).cpu() for name, distance in distances.items()}
    return {
        "psnr": psnr(images, hr, scale),
        "ssim": ssim(images, hr, scale),
        **learned,
        "consistency": consistency(images, lr),
    }


def _compare_luma(images: Tensor, hr: Tensor, scale: int) -> dict[str, Tensor]:
    a, b = luma(images), luma(hr).expand(len(images), -1, -1, -1)
    return {"psnr_y": psnr(a, b, scale), "ssim_y": ssim(a, b, scale)}


def _means(rows: list[dict[str, Tensor]]) -> dict[str, float]:
    return {key: _mean([row[key] for row in rows if key in row]) for key in rows[0]} if rows else {}


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack([value.double().mean() for value in values]).mean()) if values else math.nan
