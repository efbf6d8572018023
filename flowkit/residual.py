"""Residual flows: x plus a contraction of x, with the log-det as a power series and the inverse as a fixed point."""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowkit.arguments import check_net, check_numbers, check_whole
from flowkit.bijector import TensorMap, full_precision
from flowkit.checks import refuse_export, unreadable
from flowkit.sweeps import settle
from flowkit.tree import Value, describe, leaves, map_leaves, repeat_rows, sum_per_sample


class Residual(TensorMap):
    """y = x + net(x, context), invertible where the net is a contraction: i-ResNet, and the residual flow.

    The log-det log|det(I + J)| of samples of few numbers is that of the Jacobian. Otherwise it is the series
    Σ (−1)^(k+1)·vᵀJᵏv/k with a random probe v: unbiased, and the map is stochastic in its log-det alone (exempt from
    the laws by name); means of densities, such as importance weights, are not unbiased then. In training the series is
    cut at random and reweighted (Russian roulette), unbiased too; in evaluation it has as many terms as `error` asks
    for. The gradient is the Neumann series on the same probe, in memory of two passes whatever the number of terms;
    there are no second derivatives of an estimated log-det.

    Autocast is off inside: what a net rounds in one direction would not be undone in the other. `torch.export`, which
    knows no derivatives, does not take it.

    Args:
        net: called `net(x, context)`; returns x's shape. A contraction in x, such as `nets.lipschitz(nets.MLP(2, 2))`.
            Several draws that share a context get it repeated, unless it has an attribute `shares_context = True`.
        bound: its Lipschitz constant, the second argument of `nets.lipschitz`, below 1.
        exact: numbers of a sample up to which the log-det is exact.
        error: nats that each number of a sample may miss in evaluation, since the series ends. (20 terms at 0.97 can be
            0.43 off.)
        terms: of the series that are always there in training; the roulette goes on with probability ½ after each.
        iterations: of the inverse, x ← y − net(x), until no number changes by more than 10·eps·max(1, |x|). Under
            tracing it runs as many as `bound` asks for.

    Raises:
        ValueError: for a bound outside (0, 1), or if the net returns another shape.
        RuntimeError: if the inverse does not converge: the net is no contraction there.

    Source:
        Behrmann et al., Invertible Residual Networks (2019); Chen et al., Residual Flows (2019).

    Example:
        >>> import flowkit
        >>> b = Residual(flowkit.nets.lipschitz(flowkit.nets.MLP(2, 2), 0.9), 0.9)
        >>> x = torch.randn(5, 2)
        >>> y, logdet = b(x)
        >>> bool(torch.allclose(b.inverse(y)[0], x, atol=1e-5)), logdet.shape
        (True, torch.Size([5]))
    """

    def __init__(
        self,
        net: nn.Module,
        bound: float = 0.97,
        *,
        exact: int = 16,
        error: float = 0.01,
        terms: int = 2,
        iterations: int = 1000,
    ) -> None:
        super().__init__()
        check_net("Residual", net, "flowkit.nets.lipschitz(flowkit.nets.MLP(2, 2))")
        check_numbers("Residual", "(0, 1)", bound=bound)
        check_numbers("Residual", "(0, inf)", error=error)
        check_whole("Residual", terms=terms, iterations=iterations)
        check_whole("Residual", 0, exact=exact)
        self.net = net
        self.bound = bound
        self.exact, self.error = exact, error
        self.terms, self.iterations = terms, iterations

    def extra_repr(self) -> str:
        """The bound."""
        return f"{self.bound}"

    def forward(self, x: Tensor, context: Value = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Adds the net. `noise` is the probe of an estimated log-det, ±1 and of x's shape; None draws it."""
        with full_precision(x), _weights_once(self.net):
            step = self._step(x, context)
            return self._moved(x, step, noise)

    def inverse(self, y: Tensor, context: Value = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Solves for x. `noise` as in `forward`: in evaluation the same one gives minus the forward's log-det."""
        refuse_export(self, "is undone by iterating until x has converged")
        with full_precision(y), _weights_once(self.net):
            step = self._step(y, context)
            times = self.iterations
            if unreadable(y):
                times = math.ceil(math.log(torch.finfo(y.dtype).eps) / math.log(self.bound))
            sources = (y, *leaves(context), *self.parameters())
            x, _ = settle(lambda x: (y - step(x), x.new_zeros(len(x))), y, times, True, sources)
            again, logdet = self._moved(x, step, noise)
            self._check_solved(again, y)
            return x, -logdet

    def _estimates(self, numbers: int) -> bool:
        """Whether the log-det of a sample of so many numbers is an estimate."""
        return numbers > self.exact

    def _check_solved(self, again: Tensor, y: Tensor) -> None:
        if unreadable(y):
            return
        missed, size = (again - y).detach().flatten(1).abs(), y.detach().flatten(1).abs()
        allowed = 1000 * torch.finfo(y.dtype).eps * size.sum(1, True).clamp_min(1)
        if bool((~(missed <= allowed) & allowed.isfinite()).any()):
            raise RuntimeError(
                f"Residual: the inverse did not converge in {self.iterations} iterations: the net is no contraction "
                "there; bound it with flowkit.nets.lipschitz(net, 0.97), or allow more iterations"
            )

    def _step(self, x: Tensor, context: Value) -> Callable[[Tensor], Tensor]:
        if not getattr(self.net, "shares_context", False):
            context = map_leaves(lambda c: repeat_rows(c, x.shape[0]), context)

        def step(x: Tensor) -> Tensor:
            out = self.net(x, context)
            if not isinstance(out, Tensor) or out.shape != x.shape:
                raise ValueError(f"Residual: the net returned {describe(out)} for x {describe(x)}")
            return out.to(x.dtype)

        return step

    def _moved(self, x: Tensor, step: Callable[[Tensor], Tensor], noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Y and the log-det at x."""
        refuse_export(self, "takes derivatives of its net for the log-det")
        numbers = math.prod(x.shape[1:])
        if noise is not None and noise.shape != x.shape:
            raise ValueError(f"Residual: noise {tuple(noise.shape)} for x {tuple(x.shape)}")
        added, pullback = torch.func.vjp(step, x)  # type: ignore[misc]
        if numbers <= self.exact:
            eye = torch.eye(numbers, dtype=x.dtype, device=x.device)
            directions = eye.view(numbers, 1, *x.shape[1:]).expand(-1, *x.shape)
            (rows,) = torch.vmap(pullback)(directions)
            return x + added, torch.linalg.slogdet(eye + rows.flatten(2).movedim(0, 1)).logabsdet
        probe = torch.randint_like(x, 2) * 2 - 1 if noise is None else noise.to(x.dtype)
        with torch.no_grad():
            value, steering = self._series(x, step, probe)
        slope = sum_per_sample(pullback(steering)[0] * probe)  # whose gradient is that of the log-det
        return x + added, value + (slope - slope.detach())

    def _series(self, x: Tensor, step: Callable[[Tensor], Tensor], probe: Tensor) -> tuple[Tensor, Tensor]:
        """Σ ±vᵀJᵏv/k, and Σ ±vᵀJᵏ⁻¹, which the Neumann series multiplies with the derivative of J·v."""
        _, pullback = torch.func.vjp(step, x)  # type: ignore[misc]
        value, steering, power = x.new_zeros(len(x)), torch.zeros_like(x), probe
        for k, weight in enumerate(self._weights(x), 1):
            steering = steering + weight * power
            (power,) = pullback(power)
            value = value + weight / k * sum_per_sample(power * probe)
        return value, steering

    def _weights(self, x: Tensor) -> list[float]:
        """The weight of each term: its sign, over the probability that the roulette reaches it."""
        if not self.training or unreadable(x):
            return [(-1.0) ** (k + 1) for k in range(1, terms_for(self.bound, self.error) + 1)]
        more = int(torch.empty(1).geometric_(0.5)) - 1  # on the host: no device is waited for
        return [(-1.0) ** (k + 1) * 2.0 ** max(0, k - self.terms) for k in range(1, self.terms + more + 1)]


def terms_for(bound: float, error: float) -> int:
    """Terms of Σ (−1)^(k+1)·tr Jᵏ/k after which no number of a sample is further off, if ‖J‖ is at most the bound."""
    rest, power, k = -math.log1p(-bound), 1.0, 0
    while rest > error:
        k, power = k + 1, power * bound
        rest -= power / k
    return k


@contextlib.contextmanager
def _weights_once(net: nn.Module) -> Iterator[None]:
    """Within it, weights that are computed (as by `nets.lipschitz`) are so once; here, outside of any transform."""
    with parametrize.cached():
        for part in net.modules():
            if parametrize.is_parametrized(part):
                for name in part.parametrizations:  # type: ignore[union-attr]
                    getattr(part, name)
        yield
