"""A mixture of logistic CDFs as an elementwise map (Flow++)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from flowkit.arguments import check_numbers, check_whole
from flowkit.numeric import NumericKind


@dataclass(frozen=True)
class MixtureLogistic(NumericKind):
    """y = logit of a mixture of k logistic CDFs, from (logits, means, log-scales) per channel (Flow++, eq. 16).

    The means get offsets, equally spaced in [−offset, offset]: components that start alike get the same gradient, and
    a network whose last layer is zero would leave them one for ever. Zero parameters are so the identity up to
    offset²: 1e-3 in y, 1e-3 in the log-slope.

    The inverse is bisected and polished by Newton steps until y is met to about 1e-10 in float64 and 1e-6 in float32
    (x itself is as well known as the slope there allows). Two more Newton steps carry the gradient (implicit function
    theorem): first and second derivatives are exact in both directions. Numbers so large that a component would
    overflow go on along the tangent; infinite ones stay infinite.

    Args:
        components: k.
        bisections: halvings of the bracket before the Newton steps.
        offset: half the width of the offsets' range. 0 for weights that were trained without.

    Raises:
        ValueError: without components, or for a negative or infinite offset.
    """

    alike: ClassVar[bool] = True

    components: int
    bisections: int = 32
    offset: float = 0.1

    def __post_init__(self) -> None:
        check_whole("MixtureLogistic", components=self.components)
        check_whole("MixtureLogistic", 0, bisections=self.bisections)
        check_numbers("MixtureLogistic", "[0, inf)", offset=self.offset)

    @property
    def parameters(self) -> int:
        """3 k: logits, means, log-scales."""
        return 3 * self.components

    def prepare(self, parameters: Tensor) -> "_Mixture":
        """Log-weights, means and log-scales of the components."""
        logits, means, log_scales = parameters.chunk(3, 2)
        if self.offset and self.components > 1:
            offsets = torch.linspace(-self.offset, self.offset, self.components, dtype=means.dtype, device=means.device)
            means = means + offsets.view(-1, *(1 for _ in means.shape[3:]))
        return _Mixture(logits.log_softmax(2), means, log_scales)

    def evaluate(self, x: Tensor, prepared: "_Mixture") -> tuple[Tensor, Tensor]:
        """logit(F(x)) and its log-derivative, stable in both tails."""
        return prepared.evaluate(x)

    def value(self, x: Tensor, prepared: "_Mixture") -> Tensor:
        """logit(F(x))."""
        return prepared.value(x)

    def reach(self, prepared: "_Mixture") -> Tensor:
        """How large |x| may be before a component overflows."""
        return prepared.reach()

    def range(self, x: Tensor, prepared: "_Mixture") -> tuple[Tensor, Tensor]:
        """How large |y| may be before a component overflows on the way back."""
        reach = prepared.reach(inverse=True)
        return -reach, reach

    def bracket(self, y: Tensor, prepared: "_Mixture") -> tuple[Tensor, Tensor]:
        """The ends of where each component alone would reach y."""
        alone = prepared.means + prepared.log_scales.exp() * y.unsqueeze(2)
        largest = torch.finfo(y.dtype).max / 8
        return alone.amin(2).clamp(-largest, largest), alone.amax(2).clamp(-largest, largest)


@dataclass(frozen=True)
class _Mixture:
    """A mixture of logistics for each number: log-weights, means and log-scales, (B, C, k, *spatial)."""

    log_weights: Tensor
    means: Tensor
    log_scales: Tensor

    def reach(self, inverse: bool = False) -> Tensor:
        """How large |x|, or |y|, may be before some component overflows; there every slope has long been constant."""
        log_scales = -self.log_scales if inverse else self.log_scales
        largest = torch.finfo(log_scales.dtype).max / 8
        return (largest * log_scales.detach().amin(2).clamp_max(0).exp()).clamp_min(1)

    def value(self, x: Tensor) -> Tensor:
        """logit(F(x))."""
        below, above = self._tails(x)
        return (self.log_weights + below).logsumexp(2) - (self.log_weights + above).logsumexp(2)

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """logit(F(x)), and the logarithm of its slope f / (F·(1 − F))."""
        below, above = self._tails(x)
        lower, upper = self.log_weights + below, self.log_weights + above
        log_cdf, log_survival = lower.logsumexp(2), upper.logsumexp(2)
        # f/F and f/(1 − F) are means of the components' over their shares of F, or of 1 − F: no difference of large
        # logarithms in the tail that the share belongs to
        in_lower = (lower.log_softmax(2) + above - self.log_scales).logsumexp(2) - log_survival
        in_upper = (upper.log_softmax(2) + below - self.log_scales).logsumexp(2) - log_cdf
        return log_cdf - log_survival, torch.where(log_cdf < log_survival, in_lower, in_upper)

    def _tails(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = (x.unsqueeze(2) - self.means) * (-self.log_scales).exp()
        return F.logsigmoid(u), F.logsigmoid(-u)
