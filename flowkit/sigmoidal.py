"""Neural autoregressive flows' maps: sigmoids, mixed, and the logit of the mixture, once or in layers."""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flowkit.arguments import check_numbers, check_whole
from flowkit.kinds import softplus_from_one
from flowkit.numeric import NumericKind


class _Layer(NamedTuple):
    """One layer for each number: h ↦ logit(W σ(a·(U h) + b)), rows of U and W sum to 1.

    Shapes (…, k), (…, k), (…, k, inputs) and (…, outputs, k); no U where there is one input.
    """

    rates: Tensor
    biases: Tensor
    log_u: Tensor | None
    log_w: Tensor


@dataclass(frozen=True)
class DeepDenseSigmoid(NumericKind):
    """y by `layers` layers of `units` sigmoids, each the logit of mixtures of sigmoids of mixtures of what is below.

    A layer is h ↦ logit(W σ(a·(U h) + b)) with a > 0 and rows of U and W that are positive and sum to 1, so that y
    increases with x. Parameters per channel, layer by layer: raw a, b, logits of U (not in the first layer, which has
    one input), logits of W. b, and between layers the logits of W, get offsets, since units that start alike would get
    the same gradient for ever. Zero parameters are so the identity up to offset².

    Args:
        units: k, sigmoids in each layer.
        layers: l.
        offset: half the range of the offsets of b.
        bound: |x| beyond which the map goes on along its tangent.
        bisections: halvings of the bracket before the Newton steps of the inverse.

    Raises:
        ValueError: if units, layers, bound or bisections are not positive.

    Source:
        Huang et al., Neural Autoregressive Flows (2018): the deep dense sigmoidal flow.

    Example:
        >>> import flowkit
        >>> kind = DeepDenseSigmoid(4, 2)
        >>> b = flowkit.Coupling(flowkit.nets.MLP(1, kind.parameters), keep=1, kind=kind)
        >>> x = torch.tensor([[0.5, 1.0]])
        >>> b.inverse(b(x)[0])[0].detach()
        tensor([[0.5000, 1.0000]])
    """

    alike: ClassVar[bool] = True

    units: int
    layers: int
    offset: float = 0.1
    bound: float = 10.0
    bisections: int = 32

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_whole(name, units=self.units, layers=self.layers, bisections=self.bisections)
        check_numbers(name, "(0, inf)", bound=self.bound)
        check_numbers(name, "[0, inf)", offset=self.offset)

    @property
    def parameters(self) -> int:
        """For each layer a and b, and the logits of U and W."""
        return sum(sum(self._sizes(i)) for i in range(self.layers))

    def _sizes(self, layer: int) -> tuple[int, int, int, int]:
        """Numbers of raw a, b, logits of U, logits of W."""
        k = self.units
        outputs = 1 if layer == self.layers - 1 else k
        return k, k, k * k if layer else 0, outputs * k

    def prepare(self, parameters: Tensor) -> list[_Layer]:
        """The layers, with parameters last."""
        raw = parameters.movedim(2, -1)
        k = self.units
        apart = torch.linspace(-1, 1, k, dtype=raw.dtype, device=raw.device) if k > 1 else raw.new_zeros(1)
        layers, at = [], 0
        for i in range(self.layers):
            sizes = self._sizes(i)
            rates, biases, u, w = raw[..., at : at + sum(sizes)].split(sizes, -1)
            at += sum(sizes)
            logits = w.unflatten(-1, (-1, k))
            if i < self.layers - 1:
                logits = logits + apart[:, None] * apart
            layers.append(
                _Layer(
                    softplus_from_one(rates),
                    biases + self.offset * apart,
                    u.unflatten(-1, (k, k)).log_softmax(-1) if i else None,
                    logits.log_softmax(-1),
                )
            )
        return layers

    def evaluate(self, x: Tensor, prepared: list[_Layer]) -> tuple[Tensor, Tensor]:
        """Goes through the layers, with the logarithms of their slopes."""
        h, slope = x.unsqueeze(-1), None
        for layer in prepared:
            pre = self._pre(h, layer)
            inner = layer.rates.log()
            if slope is not None and layer.log_u is not None:
                inner = inner + (layer.log_u + slope.unsqueeze(-2)).logsumexp(-1)
            below, above = F.logsigmoid(pre).unsqueeze(-2), F.logsigmoid(-pre).unsqueeze(-2)
            lower, upper = layer.log_w + below, layer.log_w + above
            log_cdf, log_survival = lower.logsumexp(-1), upper.logsumexp(-1)
            inner = inner.unsqueeze(-2)
            # by shares of F, or of 1 − F: no difference of large logarithms in the tail that the share belongs to
            in_lower = (lower.log_softmax(-1) + above + inner).logsumexp(-1) - log_survival
            in_upper = (upper.log_softmax(-1) + below + inner).logsumexp(-1) - log_cdf
            h, slope = log_cdf - log_survival, torch.where(log_cdf < log_survival, in_lower, in_upper)
        assert slope is not None
        return h.squeeze(-1), slope.squeeze(-1)

    def value(self, x: Tensor, prepared: list[_Layer]) -> Tensor:
        """Goes through the layers."""
        h = x.unsqueeze(-1)
        for layer in prepared:
            pre = self._pre(h, layer).unsqueeze(-2)
            h = (layer.log_w + F.logsigmoid(pre)).logsumexp(-1) - (layer.log_w + F.logsigmoid(-pre)).logsumexp(-1)
        return h.squeeze(-1)

    def _pre(self, h: Tensor, layer: _Layer) -> Tensor:
        mixed = h if layer.log_u is None else (layer.log_u.exp() * h.unsqueeze(-2)).sum(-1)
        return layer.rates * mixed + layer.biases


@dataclass(frozen=True)
class DeepSigmoid(DeepDenseSigmoid):
    """y = logit Σ wⱼ σ(aⱼx + bⱼ), with raw a, b and the logits of w as parameters, 3·units per channel.

    One layer of `DeepDenseSigmoid`, whose arguments are explained there. It reaches what `MixtureLogistic` reaches; its
    slopes come by a softplus, not by exp.

    Args:
        units: k, the number of sigmoids.
        offset: half the range of the offsets of b.
        bound: |x| beyond which the map goes on along its tangent.
        bisections: halvings of the bracket before the Newton steps of the inverse.

    Raises:
        ValueError: if units, bound or bisections are not positive.

    Source:
        Huang et al., Neural Autoregressive Flows (2018): the deep sigmoidal flow.

    Example:
        >>> DeepSigmoid(5).parameters
        15
    """

    layers: int = field(default=1, init=False, repr=False)
