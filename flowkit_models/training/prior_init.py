"""Initialisation of learned priors: least squares of the details on their features."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowkit import ActNorm, Affine, Chain, InvertibleConv1x1, initialize
from flowkit.nets import ZeroConv2d
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.linf.model import LINF

LOG_SIGMA_UNIT = 0.6
"""Step of log σ for one unit of a prior's last layer."""


@torch.no_grad()
def initialize_latents(model: ImageFlow, hr: Tensor) -> None:
    """Sets the ActNorms of the latents from data, and leaves the bodies as they are.

    So a model whose bodies start as Haar keeps the LR image that they make, and its latents have variance 1.

    Args:
        model: an HCFlow, fresh.
        hr: HR images.
    """
    bodies = [layer for level in model.flow.levels for layer in level.body.modules() if isinstance(layer, ActNorm)]
    for layer in bodies:
        layer.initialized.fill_(True)
    initialize(model.flow, hr)


@torch.no_grad()
def whiten_latents(model: LINF, hr: Tensor, lr: Tensor) -> None:
    """Sets the linear layers of a fresh LINF so that its latents have the identity as covariance on a batch.

    Its scales are below 1 each, so that the linear layers have to bring a residual of some grey levels to unit size:
    each takes its share, and the last one what is left.

    Args:
        model: a LINF, fresh.
        hr: HR images.
        lr: their LR images.
    """
    patch = model.config.patch
    hr = hr[..., : hr.shape[2] // patch * patch, : hr.shape[3] // patch * patch]
    z = model.encode(hr, lr).latents[0].movedim(1, -1).flatten(0, -2).double()
    root = torch.linalg.cholesky(z.mT @ z / len(z) + 1e-9 * torch.eye(z.shape[1], dtype=z.dtype, device=z.device))
    size = root.diagonal().log().mean().exp()
    linear = [part for part in model.flow.modules() if isinstance(part, InvertibleConv1x1)]
    for part in linear:
        part.weight.mul_(size ** (-1 / len(linear)))
    last = linear[-1].weight
    last.copy_(torch.linalg.solve_triangular(root / size, last.double(), upper=False))


@torch.no_grad()
def fit_priors(model: ImageFlow, hr: Tensor, lr: Tensor, ridge: float = 1e-3) -> None:
    """Sets the priors' last layers by ridge regression: means from 3×3 windows of features, deviations from residuals.

    Goes the decoder's way at τ = 0, coarse to fine from the LR images. So the τ = 0 image of a fresh model is a linear
    super-resolution (if its levels are Haar, a good one), and its latents have variance 1 on this batch. Details that
    are conditioned on nothing are regressed on a constant: they start at their mean.

    Args:
        model: an HCFlow whose priors are untrained: those of a fresh model. It is changed in place.
        hr: HR images (B, 3, H, W) in [0, 1], some hundred thousand pixels in all; memory grows with them.
        lr: their LR images (B, 3, H/scale, W/scale).
        ridge: penalty on the weights, relative to the mean power of the features.
    """
    details: list[Tensor] = []
    features: list[Any] = []
    h: Any = hr
    y: Any = lr if model.makes_lr else None
    for level in model.flow.levels:
        h = level.body(h)[0]
        h, a = level.split(h)[0] if level.split is not None else (None, h)
        details.append(a)
    for i in reversed(range(len(details))):
        level = model.flow.levels[i]
        features.insert(0, model.flow.given(i, y, features, lr))
        *steps, prior = level.latent
        before = Chain(*steps)
        windows = _windows(features[0], details[i])
        _rotate(steps, windows, before(details[i], features[0])[0], ridge)
        target = before(details[i], features[0])[0]
        if isinstance(prior, ActNorm):
            mean = _fit_constants(prior, target)
        else:
            mean = _fit(prior.net, prior.kind, windows, features[0], target, ridge)
        a = before.inverse(mean, features[0])[0]
        y = level.body.inverse(a if y is None else level.split.inverse((y, a))[0])[0]


def _rotate(steps: list[Any], windows: Tensor, target: Tensor, ridge: float) -> None:
    """Turns the last 1×1 convolution so that the residuals of the channels are uncorrelated (their principal axes)."""
    convolutions = [step for step in steps if isinstance(step, InvertibleConv1x1)]
    if convolutions:
        wanted = _rows(target)
        residual = wanted - windows @ _solve(windows, wanted, ridge)
        axes = torch.linalg.eigh(residual.T @ residual).eigenvectors.to(target)
        convolutions[-1].weight.copy_(axes.T @ convolutions[-1].weight)


def _fit(last: ZeroConv2d, kind: Affine, windows: Tensor, features: Tensor, target: Tensor, ridge: float) -> Tensor:
    """Sets a layer whose outputs are (mean, log σ) per channel of the target, and returns its means."""
    wanted = _rows(target)
    means = _solve(windows, wanted, ridge)
    deviation = (windows @ means - wanted).square().mean(0).sqrt().clamp_min(1e-4)
    # An optimizer steps all weights alike: in units of the residual that suits every channel, however faint, and a
    # small unit keeps log σ, which acts exponentially, from running ahead.
    last.log_scale[0::2] = deviation.log() / 3
    last.log_scale[1::2] = math.log(LOG_SIGMA_UNIT) / 3
    last.weight.zero_()[0::2] = (means[:-1] / deviation).T.reshape(last.weight[0::2].shape).to(last.weight)
    last.bias[0::2] = (means[-1] / deviation).to(last.bias)
    last.bias[1::2] = (kind.raw_of(deviation.log()) / LOG_SIGMA_UNIT).to(last.bias)
    return last(features)[:, 0::2]


def _fit_constants(prior: ActNorm, target: Tensor) -> Tensor:
    """Sets a prior without features, (a − mean)/σ per channel, and returns its means at every pixel."""
    rows = _rows(target)
    means = rows.mean(0)
    prior.bias.copy_(-means)
    prior.log_scale.copy_(-(rows - means).square().mean(0).sqrt().clamp_min(1e-4).log())
    prior.initialized.fill_(True)
    return means.to(target).view(1, -1, 1, 1).expand_as(target)


def _windows(features: Tensor | None, like: Tensor) -> Tensor:
    """The 3×3 windows of features as rows, and a constant, in float64: (pixels, 9·channels + 1).

    Without features, the constant alone, for the pixels of `like`.
    """
    if features is None:
        return like.new_ones(like[:, 0].numel(), 1, dtype=torch.float64)
    return F.pad(F.unfold(features, 3, padding=1).transpose(1, 2).flatten(0, 1).double(), (0, 1), value=1.0)


def _rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(0, -2).double()


def _solve(windows: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """Ridge regression; the constant is not penalised."""
    gram = windows.T @ windows
    gram.diagonal()[:-1].add_(ridge * gram.diagonal()[:-1].mean())
    return torch.linalg.solve(gram, windows.T @ wanted)
