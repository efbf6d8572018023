"""Maps that add numbers drawn from a density, or take them away: Augment and Slice."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from flowkit.arguments import check_whole
from flowkit.bijector import Bijector, facts
from flowkit.chain import Chain
from flowkit.flow import Flow
from flowkit.tree import Value, describe


class Augment(Bijector):
    """Adds channels of noise: x → [x, e] with e drawn from q(e|x), and the log-det −log q(e|x).

    A flow of the wider vector, whose maps then have room, bounds log p(x) from below, tightly where q is the model's
    own p(e|x) (Huang et al., Augmented normalizing flows, 2020; SurVAE, Nielsen et al., 2020). Odd channels become
    even. The inverse drops e; its log-det is + log q(e|x). (Being stochastic it is exempt from the round-trip law.)

    Args:
        base: of e: a `Flow`, which gets x as its context, a base such as `StandardNormal()`, or one of
            `torch.distributions`.
        channels: of e.

    Raises:
        ValueError: without channels; from the inverse, if y has no more than them.

    Example:
        >>> import flowkit
        >>> y, logdet = flowkit.Augment(flowkit.StandardNormal(), 1)(torch.zeros(4, 3))
        >>> y.shape, logdet.shape
        (torch.Size([4, 4]), torch.Size([4]))
    """

    x_is_tensor = y_is_tensor = True
    _draws = True  # what `Reversible` can't go through again

    def __init__(self, base: nn.Module | Distribution, channels: int) -> None:
        super().__init__()
        check_whole("Augment", channels=channels)
        self.base = as_flow(base)
        self.channels = channels

    def extra_repr(self) -> str:
        """The channels."""
        return f"channels={self.channels}"

    def forward(self, x: Tensor, context: Value = None, noise: Value = None) -> tuple[Tensor, Tensor]:
        """Adds e. `noise` are the latents that the base makes e of, e itself if it is no flow; None draws them."""
        return extended(self.base, x, self.channels, noise)

    def inverse(self, y: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Drops e."""
        if y.shape[1] <= self.channels:
            raise ValueError(f"Augment({self.extra_repr()}): nothing is left of {describe(y)} without them")
        return shortened(self.base, y, y.shape[1] - self.channels)


class Slice(Bijector):
    """Drops channels, x = [y, e] → y, and counts them under a density: the log-det is + log q(e|y). `Augment` undone.

    The inverse draws e, so samples are whole again (SurVAE, Nielsen et al., 2020); its log-det is −log q(e|y). It draws
    at temperature 1 and from torch's global generator: `Flow.sample` refuses another one. Unlike `Split` it returns one
    tensor. (Being stochastic it is exempt from the round-trip law.)

    Args:
        keep: leading channels that stay.
        base: of those dropped: a `Flow`, which gets y as its context, a base such as `StandardNormal()`, or one of
            `torch.distributions`.
        drop: how many are dropped; None is told from the base, if it states its channels.

    Raises:
        ValueError: if keep is below 1; from a call, if x has no more channels; from the inverse, if the number to draw
            is not known.

    Example:
        >>> import flowkit
        >>> b = flowkit.Slice(2, flowkit.Normal(1))
        >>> b(torch.zeros(4, 3))[0].shape, b.inverse(torch.zeros(4, 2))[0].shape
        (torch.Size([4, 2]), torch.Size([4, 3]))
    """

    x_is_tensor = y_is_tensor = True
    _draws = True  # what `Reversible` can't go through again
    _draws_back = True  # what no generator of `Flow.sample` reaches

    def __init__(self, keep: int, base: nn.Module | Distribution, drop: int | None = None) -> None:
        super().__init__()
        check_whole("Slice", keep=keep)
        if drop is not None:
            check_whole("Slice", drop=drop)
        self.keep = self.out_channels = keep
        self.base = as_flow(base)
        self.drop = _channels(self.base) if drop is None else drop
        if self.drop is not None:
            self.in_channels = keep + self.drop

    def extra_repr(self) -> str:
        """Channels that stay, and those that don't."""
        return f"{self.keep}" + ("" if self.drop is None else f", drop={self.drop}")

    def forward(self, x: Tensor, context: Value = None) -> tuple[Tensor, Tensor]:
        """Drops the rest."""
        if x.shape[1] <= self.keep:
            raise ValueError(f"Slice({self.extra_repr()}): there is nothing to drop of {describe(x)}")
        return shortened(self.base, x, self.keep)

    def inverse(self, y: Tensor, context: Value = None, noise: Value = None) -> tuple[Tensor, Tensor]:
        """Draws the rest. `noise` are the latents that the base makes it of; None draws them."""
        if self.drop is None:
            raise ValueError(f"Slice({self.extra_repr()}): how many channels to draw is not known; pass drop=")
        return extended(self.base, y, self.drop, noise)


def as_flow(base: nn.Module | Distribution) -> Flow:
    """A density that takes a context: a flow as it is, or a base alone."""
    return base if isinstance(base, Flow) else Flow(Chain(), base)


def extended(base: Flow, x: Tensor, channels: int, noise: Value) -> tuple[Tensor, Tensor]:
    """[x, e] with e drawn given x, and −log q(e|x)."""
    like = x.new_zeros(()).expand(x.shape[0], channels, *x.shape[2:])
    drawn, log_density = base.sample_like(like, x, noise)
    if drawn.shape != like.shape:
        raise ValueError(f"the density drew {describe(drawn)} beside {describe(x)}, expected {channels} channels")
    return torch.cat([x, drawn], 1), -log_density


def shortened(base: Flow, y: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The x in [x, e], and log q(e|x)."""
    x, extra = y[:, :keep], y[:, keep:]
    return x, base.log_prob(extra, x)


def _channels(base: Flow) -> int | None:
    shape = getattr(base.base, "shape", None) if base.shape is None else base.shape
    return facts(base.bijector).in_channels if shape is None else shape[0]
