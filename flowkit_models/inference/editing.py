"""Editing by latents: another draw in a region, interpolation, content moved between photographs, where draws differ.

Latents are tuples of tensors (B, C_l, h_l, w_l), coarsest first, as `ImageFlow.encode` returns and `ImageFlow.decode`
takes them. Masks are (B, 1, h, w) or (1, 1, h, w), true or above ½ inside, of the LR image's size, the HR image's or
any other: each level gets the positions that the mask touches.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from flowkit.bases import draw
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.models.base import ImageFlow

Way = Literal["spherical", "linear"]
Collection = Literal["position", "channel", "all"]
Latents = Sequence[Tensor]


def resample_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask at another size: true wherever the mask touches a pixel.

    Args:
        mask: (B, 1, h, w).
        height: new height in pixels.
        width: new width in pixels.

    Returns:
        (B, 1, height, width) bool.

    Raises:
        ValueError: for another shape.

    >>> mask = torch.zeros(1, 1, 4, 4)
    >>> mask[0, 0, 1, 3] = 1
    >>> resample_mask(mask, 2, 2)[0, 0]
    tensor([[False,  True],
            [False, False]])
    """
    if mask.ndim != 4 or mask.shape[1] != 1 or 0 in mask.shape:
        raise ValueError(f"mask: expected (B, 1, h, w), got {tuple(mask.shape)}")
    inside: Tensor = F.adaptive_max_pool2d((mask > 0.5).float(), (height, width)) > 0
    return inside


def region_latents(latents: Latents, mask: Tensor, other: Latents) -> tuple[Tensor, ...]:
    """Latents of a region replaced, at every level: those of `other` inside the mask, those given outside.

    The decoded image changes in the region and as far around it as the networks look.

    Args:
        latents: tuple of (B, C_l, h_l, w_l).
        mask: see the module.
        other: the same shapes, for example another draw, zeros, or `latents` times a number.

    Raises:
        ValueError: if shapes do not fit.
    """
    _check_pair(latents, other)
    return tuple(torch.where(_at(mask, ours), theirs, ours) for ours, theirs in zip(latents, other, strict=True))


def interpolate(a: Latents, b: Latents, t: float, path: Way = "spherical") -> tuple[Tensor, ...]:
    """Latents on the way from a to b.

    Spherical: along the great circle, tensor by tensor and row by row. Between independent standard-normal latents
    the variance stays 1, so that every point is a typical draw. Linear: a straight line, whose middle has half the
    variance, as draws at τ = 0.71 have.

    Args:
        a: tuple of (B, C_l, h_l, w_l).
        b: the same shapes.
        t: 0 gives a, 1 gives b.
        path: "spherical" or "linear".

    Raises:
        ValueError: if shapes do not fit, t is outside [0, 1], or the path is another.

    Source: Shoemake, Animating rotation with quaternion curves, 1985; for latents: White, 2016 (arXiv 1609.04468).
    """
    _check_pair(a, b)
    if not 0 <= t <= 1:
        raise ValueError(f"t must be in [0, 1], got {t}")
    if path == "linear":
        return tuple((1 - t) * p + t * q for p, q in zip(a, b, strict=True))
    if path != "spherical":
        raise ValueError(f'path is "spherical" or "linear", got {path!r}')
    return tuple(_great_circle(p, q, t) for p, q in zip(a, b, strict=True))


def _great_circle(p: Tensor, q: Tensor, t: float) -> Tensor:
    dims = tuple(range(1, p.ndim))
    norms = p.square().sum(dims, keepdim=True).sqrt() * q.square().sum(dims, keepdim=True).sqrt()
    cosine = ((p * q).sum(dims, keepdim=True) / norms.clamp_min(torch.finfo(p.dtype).tiny)).clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    straight = sine < 1e-4  # (anti-)parallel: no circle is told, and a straight line is the limit
    safe = sine.where(~straight, 1)
    from_p = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / safe)
    from_q = torch.where(straight, t, (t * angle).sin() / safe)
    return from_p * p + from_q * q


def normalize(
    latents: Latents,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    over: Collection = "position",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, ...]:
    """Gives latents the mean and variance that draws at a temperature have ("latent space normalization").

    An image that is not natural given its LR image, an edited one, has latents with other moments than draws. Each
    collection of N latents is shifted and scaled to moments of its own draw: the mean is N(0, τ²/N), the variance
    Gamma((N − 1)/2, 2τ²/(N − 1)), which are those of N fresh normal numbers, and so they are made.

    Args:
        latents: tuple of (B, C_l, h_l, w_l).
        temperature: standard deviation τ of the draws to resemble.
        mask: only latents inside are looked at and changed, see the module. None: all.
        over: what is one collection: "position", all channels at one position of a level (local: where statistics
            vary over the image); "channel", a channel of a level (spatial: against colour shifts); "all", the latents
            of an image together (global).
        generator: source of the fresh numbers.

    Raises:
        ValueError: if shapes do not fit, the temperature is negative, or the collection is another.

    Source: Lugmayr et al., SRFlow (ECCV 2020), "Latent Space Normalization"; τ here is a standard deviation.
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    dims = {"position": (1,), "channel": (2, 3), "all": (1,)}.get(over)
    if dims is None:
        raise ValueError(f'over is "position", "channel" or "all", got {over!r}')
    masks = [torch.ones_like(z[:, :1], dtype=torch.bool) if mask is None else _at(mask, z) for z in latents]
    fresh = [temperature * draw(z, generator) for z in latents]
    if over == "all":
        z, noise, inside = (_flat(parts, latents) for parts in (latents, fresh, masks))
        pieces = _resemble(z, noise, inside, (1,)).split([z[0].numel() for z in latents], 1)
        return tuple(piece.view_as(z) for piece, z in zip(pieces, latents, strict=True))
    return tuple(_resemble(*parts, dims=dims) for parts in zip(latents, fresh, masks, strict=True))


def _flat(parts: Latents, latents: Latents) -> Tensor:
    """Latents of all levels in one tensor, (B, N)."""
    return torch.cat([part.expand(z.shape).flatten(1) for part, z in zip(parts, latents, strict=True)], 1)


def _resemble(z: Tensor, fresh: Tensor, mask: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Gives z the moments of `fresh` over some dimensions, inside the mask."""
    inside = mask.expand(z.shape)
    count = inside.sum(dims, keepdim=True)

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = (x * inside).sum(dims, keepdim=True) / count.clamp_min(1)
        return mean, ((x - mean).square() * inside).sum(dims, keepdim=True).sqrt()

    (mean, spread), (new_mean, new_spread) = moments(z), moments(fresh)
    made = (z - mean) * (new_spread / spread.clamp_min(torch.finfo(z.dtype).tiny)) + new_mean
    return torch.where(inside, made, z)


def paste(hr: Tensor, patch: Tensor, top: int, left: int) -> tuple[Tensor, Tensor]:
    """A patch laid into images, pixel by pixel.

    Args:
        hr: (B, 3, H, W).
        patch: (B or 1, 3, h, w).
        top: first row that it covers.
        left: first column that it covers.

    Returns:
        The images, and the mask (1, 1, H, W) of where the patch lies.

    Raises:
        ValueError: if the patch reaches beyond the images.
    """
    height, width = patch.shape[2:]
    if min(top, left) < 0 or top + height > hr.shape[2] or left + width > hr.shape[3]:
        raise ValueError(
            f"patch: {height} × {width} pixels at row {top}, column {left} reach beyond {hr.shape[2]} × {hr.shape[3]}"
        )
    where = (..., slice(top, top + height), slice(left, left + width))
    image, mask = hr.clone(), hr.new_zeros(1, 1, *hr.shape[2:], dtype=torch.bool)
    image[where], mask[where] = patch, True
    return image, mask


def transfer(
    model: ImageFlow,
    hr: Tensor,
    lr: Tensor,
    edited: Tensor,
    mask: Tensor,
    temperature: float | None = 0.8,
    over: Collection = "position",
    toward: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Harmonises an edited image: its details, on the LR image of the one before the edit ("image content transfer").

    The edited image is encoded, its latents in the region are normalised, and decoded with the old LR image: colours
    and light come from there. Outside, as far from the region as the networks look, nothing changes.

    Args:
        model: any image flow. One that makes an LR image gives it what it makes of `hr`; SRFlow gets `lr`.
        hr: images before the edit, (B, 3, H, W), sides multiples of the model's stride.
        lr: their LR images (B, 3, H/s, W/s).
        edited: the images with content pasted in, as `paste` makes them.
        mask: where, see the module.
        temperature: τ of `normalize`; None leaves the latents as encoded.
        over: see `normalize`.
        toward: how much of the edited image's own LR image to take in the region, in [0, 1].
        generator: of `normalize`.

    Returns:
        (B, 3, H, W), not clamped.

    Raises:
        ValueError: if sizes do not fit, or `toward` is outside [0, 1].

    Source: Lugmayr et al., SRFlow (ECCV 2020), "Image Content Transfer"; `toward` is ours.
    """
    if edited.shape != hr.shape:
        raise ValueError(f"edited: expected {tuple(hr.shape)} as hr, got {tuple(edited.shape)}")
    if not 0 <= toward <= 1:
        raise ValueError(f"toward must be in [0, 1], got {toward}")
    given = _blend(lr, bicubic_resize(edited, Fraction(1, model.scale)), mask, toward)
    encoded = model.encode(edited, given)
    if encoded.lr is None:
        own = given
    else:
        before = model.encode(hr, lr).lr
        assert before is not None, "one model makes both"
        own = _blend(before, encoded.lr, mask, toward)
    latents = encoded.latents
    if temperature is not None:
        latents = normalize(latents, temperature, mask, over, generator)
    return model.decode(own, latents, given)


def _blend(lr: Tensor, other: Tensor, mask: Tensor, weight: float) -> Tensor:
    return lr + weight * _at(mask, lr) * (other - lr)


def diversity_map(samples: Tensor) -> Tensor:
    """Diversity map: unbiased standard deviation of draws at each pixel, mean over channels.

    Args:
        samples: (n ≥ 2, B, C, H, W), uint8 or floating point in [0, 1].

    Returns:
        (B, H, W) float64, in grey levels; its mean is `flowkit_models.metrics.stochastic.diversity`.

    Raises:
        ValueError: for fewer than two draws or another shape.
    """
    if samples.ndim != 5 or len(samples) < 2:
        raise ValueError(f"a diversity map takes samples (n >= 2, B, C, H, W), got {tuple(samples.shape)}")
    levels = samples.double() if samples.dtype == torch.uint8 else 255 * samples.double()
    return levels.std(0).mean(1)


def _at(mask: Tensor, like: Tensor) -> Tensor:
    """The mask at a tensor's size, on its device."""
    if mask.shape[0] not in (1, like.shape[0]):
        raise ValueError(f"mask: expected 1 or {like.shape[0]} rows, got {tuple(mask.shape)}")
    return resample_mask(mask, like.shape[2], like.shape[3]).to(like.device)


def _check_pair(a: Latents, b: Latents) -> None:
    ours, theirs = ([tuple(z.shape) for z in latents] for latents in (a, b))
    if ours != theirs:
        raise ValueError(f"latents: two of the same shapes wanted, got {ours} and {theirs}")
