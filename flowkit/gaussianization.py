"""A mixture of Gaussian CDFs, carried to a Gaussian by its quantile function."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flowkit.numeric import NumericKind
from flowkit.roots import root

_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


class _Mixture(NamedTuple):
    """Log-weights, means and log-scales of the components, (…, k)."""

    log_weights: Tensor
    means: Tensor
    log_scales: Tensor


@dataclass(frozen=True)
class Gaussianization(NumericKind):
    """y = Φ⁻¹(Σ wⱼ Φ((x − μⱼ)/sⱼ)): what makes a mixture of k Gaussians one Gaussian.

    Parameters per channel: k logits, k means, k log-scales. The means get offsets, equally spaced in [−offset, offset],
    since components that start alike would stay alike. Zero parameters are so the identity up to offset². Tails are
    computed by logarithms, from the nearer end, so that a number 100 standard deviations out has its value and density.

    Args:
        components: k.
        offset: half the width of the offsets' range.
        bound: |x| beyond which the map goes on along its tangent.
        bisections: halvings of the bracket before the Newton steps of the inverse.

    Raises:
        ValueError: without components, for a negative offset, or if bound or bisections are not positive.

    Source:
        Meng et al., Gaussianization Flows (2020).

    Example:
        >>> import flowkit
        >>> kind = Gaussianization(4)
        >>> b = flowkit.Coupling(flowkit.nets.MLP(1, kind.parameters), keep=1, kind=kind)
        >>> x = torch.tensor([[0.5, 1.0]])
        >>> b.inverse(b(x)[0])[0]
        tensor([[0.5000, 1.0000]])
    """

    components: int
    offset: float = 0.1
    bound: float = 10.0
    bisections: int = 32

    def __post_init__(self) -> None:
        if min(self.components, self.bisections) < 1 or self.bound <= 0 or not 0 <= self.offset < math.inf:
            raise ValueError(f"Gaussianization: needs components, bisections and bound > 0, and offset ≥ 0, got {self}")

    @property
    def parameters(self) -> int:
        """3 k: logits, means, log-scales."""
        return 3 * self.components

    def prepare(self, parameters: Tensor) -> _Mixture:
        """The components, with parameters last."""
        logits, means, log_scales = parameters.movedim(2, -1).chunk(3, -1)
        if self.components > 1:
            means = means + torch.linspace(
                -self.offset, self.offset, self.components, dtype=means.dtype, device=means.device
            )
        return _Mixture(logits.log_softmax(-1), means, log_scales)

    def evaluate(self, x: Tensor, prepared: _Mixture) -> tuple[Tensor, Tensor]:
        """y, and its log-slope: the mixture's hazard over the Gaussian's, from the nearer end."""
        u, side = self._nearer_end(x, prepared)
        lower = prepared.log_weights + torch.special.log_ndtr(u)
        t = _quantile(lower.logsumexp(-1))
        hazards = lower.log_softmax(-1) + _log_hazard(u) - prepared.log_scales
        return side * t, hazards.logsumexp(-1) - _log_hazard(t)

    def value(self, x: Tensor, prepared: _Mixture) -> Tensor:
        """Y alone."""
        u, side = self._nearer_end(x, prepared)
        return side * _quantile((prepared.log_weights + torch.special.log_ndtr(u)).logsumexp(-1))

    def _nearer_end(self, x: Tensor, mixture: _Mixture) -> tuple[Tensor, Tensor]:
        """(x − μ)/s seen from the end that has less of the mixture, and the sign that does that."""
        u = (x.unsqueeze(-1) - mixture.means) * (-mixture.log_scales).exp()
        with torch.no_grad():
            below = (mixture.log_weights.exp() * torch.special.ndtr(u)).sum(-1) < 0.5
            side = torch.where(below, 1.0, -1.0).to(x.dtype)
        return side.unsqueeze(-1) * u, side


def _quantile(log_p: Tensor) -> Tensor:
    """Φ⁻¹ of exp(log_p), for log_p up to about log ½."""
    with torch.no_grad():
        far = (-2 * log_p - 2 * _LOG_ROOT_2PI).clamp_min(2)
        near = torch.special.ndtri(log_p.clamp_min(-20).exp())
        start = torch.where(log_p < -20, -(far - far.log()).sqrt(), near)
    return root(lambda t: (torch.special.log_ndtr(t), _log_hazard(t)), log_p, start - 1, start + 1, bisections=0)[0]


def _log_hazard(u: Tensor) -> Tensor:
    """log(φ(u)/Φ(u)): without a difference of squares where both are small."""
    left, right = u.clamp_max(0), u.clamp_min(0)
    by_erfcx = math.log(2) - _LOG_ROOT_2PI - torch.special.erfcx(left * -math.sqrt(0.5)).log()
    return torch.where(u < 0, by_erfcx, -right.square() / 2 - _LOG_ROOT_2PI - torch.special.log_ndtr(right))
