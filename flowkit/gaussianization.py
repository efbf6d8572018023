"""A mixture of Gaussian CDFs, carried to a Gaussian by its quantile function."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flowkit.arguments import check_numbers, check_whole
from flowkit.numeric import NumericKind
from flowkit.roots import root
from flowkit.tree import sum_per_sample

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
        bound: |x| beyond which the logit of the mixture's CDF goes on along its tangent.
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
        >>> b.inverse(b(x)[0])[0].detach()
        tensor([[0.5000, 1.0000]])
    """

    alike: ClassVar[bool] = True

    components: int
    offset: float = 0.1
    bound: float = 10.0
    bisections: int = 32

    def __post_init__(self) -> None:
        check_whole("Gaussianization", components=self.components, bisections=self.bisections)
        check_numbers("Gaussianization", "(0, inf)", bound=self.bound)
        check_numbers("Gaussianization", "[0, inf)", offset=self.offset)

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
        """The logit of the mixture's CDF F, which is solved for x: a quantile needs steps of its own.

        Its slope is f/(F·(1 − F)), the mixture's hazard over 1 − F, seen from the nearer end.
        """
        u = self._standardised(x, prepared)
        with torch.no_grad():
            below = (prepared.log_weights.exp() * torch.special.ndtr(u)).sum(-1) < 0.5
            side = torch.where(below, 1.0, -1.0).to(x.dtype)
        u = side.unsqueeze(-1) * u
        lower = prepared.log_weights + _log_cdf(u)
        log_survival = (prepared.log_weights + _log_cdf(-u)).logsumexp(-1)
        hazards = lower.log_softmax(-1) + _log_hazard(u) - prepared.log_scales
        return side * (lower.logsumexp(-1) - log_survival), hazards.logsumexp(-1) - log_survival

    def value(self, x: Tensor, prepared: _Mixture) -> Tensor:
        """The logit alone."""
        u = self._standardised(x, prepared)
        below, above = (prepared.log_weights + _log_cdf(v) for v in (u, -u))
        return below.logsumexp(-1) - above.logsumexp(-1)

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The Gaussian's quantile of the mixture's CDF."""
        logit, logdet = super().forward(x, parameters)
        y = _quantile(F.logsigmoid(torch.where(logit < 0, logit, -logit)))
        return torch.where(logit < 0, y, -y), logdet - sum_per_sample(_log_slope(y))

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Solves for the x of the Gaussian's CDF."""
        logit = _log_cdf(y) - _log_cdf(-y)
        x, logdet = super().inverse(logit, parameters)
        return x, logdet + sum_per_sample(_log_slope(torch.where(y < 0, y, -y)))

    def _standardised(self, x: Tensor, mixture: _Mixture) -> Tensor:
        return (x.unsqueeze(-1) - mixture.means) * (-mixture.log_scales).exp()


def _log_slope(y: Tensor) -> Tensor:
    """Logarithm of the slope of logit Φ, for y up to 0; for others it is that of −y."""
    return _log_hazard(y) - _log_cdf(-y)


def _quantile(log_p: Tensor) -> Tensor:
    """Φ⁻¹ of exp(log_p), for log_p up to about log ½."""
    with torch.no_grad():
        far = (-2 * log_p - 2 * _LOG_ROOT_2PI).clamp_min(2)
        near = torch.special.ndtri(log_p.clamp_min(-20).exp())
        start = torch.where(log_p < -20, -(far - far.log()).sqrt(), near)
    return root(lambda t: (_log_cdf(t), _log_hazard(t)), log_p, start - 1, start + 1, bisections=0)[0]


def _log_cdf(u: Tensor) -> Tensor:
    """Logarithm of Φ(u), far out, too; torch's own has no rule for vmap."""
    left, right = torch.where(u < 0, u, 0.0), torch.where(u < 0, 0.0, u)  # clamps would have no slope at 0
    above = torch.log1p(-0.5 * torch.special.erfc(right * math.sqrt(0.5)))
    return torch.where(u < 0, _log_mills(left) - left.square() / 2 - _LOG_ROOT_2PI, above)


def _log_hazard(u: Tensor) -> Tensor:
    """Logarithm of φ(u)/Φ(u), without a difference of squares where both are small."""
    return torch.where(u < 0, -_log_mills(torch.where(u < 0, u, 0.0)), -u.square() / 2 - _LOG_ROOT_2PI - _log_cdf(u))


def _log_mills(u: Tensor) -> Tensor:
    """Logarithm of Φ(u)/φ(u), for u up to 0."""
    return torch.special.erfcx(u * -math.sqrt(0.5)).log() + (_LOG_ROOT_2PI - math.log(2))
