"""A start for learned priors: least squares of the details on their features, as ActNorm starts from statistics."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowkit import Chain
from flowkit.nets import ZeroConv2d

from .hcflow import HCFlow


@torch.no_grad()
def fit_priors(model: HCFlow, hr: Tensor, lr: Tensor, ridge: float = 1e-3) -> None:
    """Sets the priors' last layers by ridge regression: means from 3×3 windows of features, deviations from residuals.

    Goes the decoder's way at τ = 0, coarse to fine from the LR images. So the τ = 0 image of a fresh model is a linear
    super-resolution (if its levels are Haar, a good one), and its latents have variance 1 on this batch.

    Args:
        model: fresh, or with uninformed priors.
        hr: HR images, some hundred thousand pixels; memory grows with them.
        lr: their LR images.
        ridge: penalty on the weights, relative to the mean power of the features.
    """
    details, h = [], hr
    for level in model.flow.levels:
        h, a = level.split(level.body(h)[0])[0]
        details.append(a)
    y, features = lr, []
    for i in reversed(range(len(details))):
        level = model.flow.levels[i]
        features.insert(0, model.flow.given(i, y, features, None))
        *steps, prior = level.latent
        before = Chain(*steps)
        mean = _fit(prior.net, features[0], before(details[i], features[0])[0], ridge)
        a = before.inverse(mean, features[0])[0]
        y = level.body.inverse(level.split.inverse((y, a))[0])[0]


def _fit(last: ZeroConv2d, features: Tensor, target: Tensor, ridge: float) -> Tensor:
    """Sets a layer whose outputs are (mean, log σ) per channel of the target, and returns its means."""
    windows = F.pad(F.unfold(features, 3, padding=1).transpose(1, 2).flatten(0, 1).double(), (0, 1), value=1.0)
    wanted = target.movedim(1, -1).flatten(0, -2).double()
    gram = windows.T @ windows
    gram.diagonal()[:-1].add_(ridge * gram.diagonal()[:-1].mean())  # the constant is not penalised
    solution = torch.linalg.solve(gram, windows.T @ wanted)
    deviation = (windows @ solution - wanted).square().mean(0).sqrt().clamp_min(1e-4)
    # weights in units of the residual: an optimiser's steps of one size then suit all channels, however faint
    last.log_scale.zero_()[0::2] = deviation.log() / 3
    last.weight.zero_()[0::2] = (solution[:-1] / deviation).T.reshape(last.weight[0::2].shape).to(last.weight)
    last.bias[0::2] = (solution[-1] / deviation).to(last.bias)
    last.bias[1::2] = deviation.log().to(last.bias)
    return last(features)[:, 0::2]
