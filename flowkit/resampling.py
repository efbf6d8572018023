"""A base that is resampled: proposals of another base, accepted with a learned probability."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from flowkit.arguments import check_net, check_numbers, check_whole
from flowkit.bases import uniform
from flowkit.bijector import widest
from flowkit.checks import unreadable
from flowkit.distribution_base import DistributionBase
from flowkit.tree import Value


class Resampled(nn.Module):
    """Learned accept/reject sampling with truncation (LARS, Bauer and Mnih 2019; in flows, Stimper et al. 2022).

    A draw is the first of `truncation` proposals z ~ π that is accepted, with probability a(z) = σ(net(z)); the last
    one always is. With Z = E a(z) its density is π(z)·[a(z)·(1 − α)/Z + α], α = (1 − Z)^(truncation − 1): it can be
    zero between modes, where no continuous map of one Gaussian is. Draws carry no gradients.

    Z is a buffer. It is estimated at construction; in training every `log_prob` draws `draws` proposals anew, moves
    Z towards their mean (with a gradient), and keeps the moving average. Call `normalize()` before densities are
    reported: it estimates Z of the net as it is, and says how well.

    Args:
        net: (B, *shape) to logits (B,) or (B, 1).
        base: π, with a `shape`: `Normal(D)`, or a `torch.distributions` distribution of vectors.
        truncation: T, proposals of one draw at most.
        draws: proposals for an estimate of Z in training.
        decay: weight of the past in the moving average.

    Raises:
        ValueError: if the base states no shape, or an option makes no sense. From `sample`, if the temperature is
            not 1.

    Example:
        >>> import flowkit
        >>> base = flowkit.Resampled(flowkit.nets.MLP(2, 1, 16), flowkit.Normal(2))
        >>> error = base.normalize(10_000)
        >>> flowkit.Flow(flowkit.ActNorm(2), base).sample(5).shape
        torch.Size([5, 2])
    """

    has_rsample = False
    normalizer: Tensor

    def __init__(
        self, net: nn.Module, base: Any, truncation: int = 100, *, draws: int = 1024, decay: float = 0.95
    ) -> None:
        super().__init__()
        base = DistributionBase(base) if isinstance(base, Distribution) else base
        if getattr(base, "shape", None) is None:
            raise ValueError(f"Resampled: {type(base).__name__} states no shape; use Normal(features), say")
        check_net("Resampled", net, "flowkit.nets.MLP(2, 1)")
        check_whole("Resampled", truncation=truncation, draws=draws)
        check_numbers("Resampled", "[0, 1)", decay=decay)
        self.net = net
        self.base = base
        self.shape = tuple(base.shape)
        self.truncation = truncation
        self.draws = draws
        self.decay = decay
        self.register_buffer("normalizer", torch.tensor(1.0))
        self._estimate(10_000)
        self.net.train(self.training)

    def extra_repr(self) -> str:
        """The truncation."""
        return f"truncation={self.truncation}"

    def log_prob(self, value: Value, context: Value = None) -> Tensor:
        """Log-density in nats, shape (B,)."""
        log_proposal: Tensor = self.base.log_prob(value, context)
        if self.truncation == 1:
            return log_proposal
        normalizer = self._moved() if self.training else self.normalizer
        normalizer = normalizer.clamp(torch.finfo(normalizer.dtype).tiny, 1 - torch.finfo(normalizer.dtype).eps)
        log_rest = (self.truncation - 1) * torch.log1p(-normalizer)  # of α: the last proposal is taken as it is
        accepted = F.logsigmoid(self._logit(value)) + torch.log(-torch.expm1(log_rest)) - normalizer.log()
        return log_proposal + torch.logaddexp(accepted, log_rest)

    @torch.no_grad()
    def sample(
        self,
        like: Tensor,
        context: Value = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws as many as `like` has rows. Under tracing it makes all proposals, otherwise no more than needed."""
        if temperature != 1:
            raise ValueError(f"Flow.sample: the temperature of the base Resampled must be 1, got {temperature}")
        z = self.base.sample(like, context, 1.0, generator)
        pending = torch.ones(z.shape[0], dtype=torch.bool, device=z.device)
        for _ in range(self.truncation - 1):
            pending = pending & (uniform(z.flatten(1)[:, 0], generator) >= self._logit(z).sigmoid())
            if not unreadable(z) and not bool(pending.any()):
                break
            proposal = self.base.sample(like, context, 1.0, generator)
            z = torch.where(pending.view(-1, *(1 for _ in self.shape)), proposal, z)
        return z

    def normalize(self, draws: int = 10_000_000, generator: torch.Generator | None = None) -> float:
        """Estimates Z of the net as it is, in evaluation mode, and keeps it.

        Args:
            draws: proposals, made 2¹⁶ at a time.
            generator: source of the draws. None: torch's global one.

        Returns:
            The standard error of log Z, which is that of every log-density where a(z)·(1 − α)/Z is most of it.

        Raises:
            ValueError: if draws is below 1.
        """
        check_whole("Resampled.normalize", draws=draws)
        mode = self.net.training
        try:
            return float(self._estimate(draws, generator))
        finally:
            self.net.train(mode)

    @torch.no_grad()
    def _estimate(self, draws: int, generator: torch.Generator | None = None) -> Tensor:
        self.net.eval()
        sums = self.normalizer.new_zeros(2, dtype=widest(self.normalizer.device))
        for rows in (*[2**16] * (draws // 2**16), draws % 2**16):
            accepted = self._proposed(rows, generator).to(sums.dtype)
            sums += torch.stack([accepted.sum(), accepted.square().sum()])
        mean, square = sums / draws
        self.normalizer.copy_(mean)
        return ((square - mean.square()).clamp_min(0) / draws).sqrt() / mean

    def _logit(self, z: Tensor) -> Tensor:
        logit: Tensor = self.net(z)
        return logit.reshape(z.shape[0])

    def _proposed(self, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Probabilities of acceptance of new proposals, (rows,)."""
        like = self.normalizer.new_empty(()).expand(rows, *self.shape)
        return self._logit(self.base.sample(like, None, 1.0, generator)).sigmoid()

    def _moved(self) -> Tensor:
        """The moving average of Z after another estimate; its gradient is the estimate's."""
        estimate = self._proposed(self.draws).mean()
        with torch.no_grad():
            self.normalizer.lerp_(estimate.to(self.normalizer.dtype), 1 - self.decay)
        return self.normalizer + (estimate - estimate.detach())
