"""Continuous flows: an ordinary differential equation as a bijector, and the loss that trains it without solving it."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowkit.arguments import check_choice, check_net, check_numbers, check_whole
from flowkit.bijector import TensorMap, full_precision, widest
from flowkit.checks import refuse_export, unreadable
from flowkit.tree import Value, describe, map_leaves, repeat_rows, sum_per_sample

_ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")

_STAGES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "euler": ((0.0,), (1.0,)),
    "midpoint": ((0.0, 0.5), (0.0, 1.0)),
    "rk4": ((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""Where each stage of a step lies, a fraction of the step along the slope before it; and the weights of the slopes."""

_MOST_STEPS = 10_000


class ODE(TensorMap):
    """The flow of dx/dt = net(x, t, context) from the data at t = 1 to the noise at t = 0 (neural ODE, FFJORD).

    Its log-det is the integral of minus the divergence over [0, 1]: for v = A·x it maps x to e^(−A)·x, with −tr A.
    Gradients go through the steps of the solver. Autocast is off inside: what a net rounds in one direction would not
    be undone in the other. Numbers come out to the solver's tolerance, and so does the round trip. `torch.compile` and
    the transforms of `torch.func` take it; `torch.export`, which knows no derivatives, does not.

    Args:
        net: called `net(x, t, context)` with t of shape (B,); returns the velocity, of x's shape. Several draws that
            share a context get it repeated, unless the net has an attribute `shares_context = True`.
            `flowkit.nets.WithTime` makes such a net of any conditioner network.
        divergence: "exact", by as many backward passes of the net as a sample has numbers (made as one batch);
            "hutchinson", by one, with a random probe: unbiased, and the map is stochastic in its log-det alone (exempt
            from the laws by name); means of densities, such as importance weights, are not unbiased then.
        solver: an adaptive one of torchdiffeq, "dopri5", "dopri8", "bosh3" or "adaptive_heun", which
            needs `pip install "flowkit-torch[ode]"`; or "rk4", "midpoint" or "euler" in `steps` equal steps.
        rtol, atol: error that an adaptive solver allows itself in a step, in each sample, relative and absolute; no
            less than ten roundings of x's dtype are asked of it.
        steps: of a fixed solver. Where numbers can't be looked at (`torch.compile`, `torch.export`, `torch.func`, fake
            tensors) an adaptive one is replaced by "rk4" in as many steps.

    Raises:
        ValueError: for an unknown divergence or solver, or if the net returns another shape.
        ImportError: without torchdiffeq, where it is needed.
        RuntimeError: if an adaptive solver does not arrive, as where the net is not finite.

    Example:
        >>> import flowkit
        >>> net = flowkit.nets.WithTime(flowkit.nets.MLP(3, 2))
        >>> flow = flowkit.Flow(flowkit.ODE(net, solver="rk4"), flowkit.StandardNormal(), shape=(2,))
        >>> flow.log_prob(torch.zeros(5, 2)).shape, flow.sample(3).shape
        (torch.Size([5]), torch.Size([3, 2]))
    """

    def __init__(
        self,
        net: nn.Module,
        divergence: Literal["exact", "hutchinson"] = "exact",
        solver: str = "dopri5",
        *,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        steps: int = 20,
    ) -> None:
        super().__init__()
        check_net("ODE", net, "flowkit.nets.WithTime(flowkit.nets.MLP(3, 2))")
        check_choice("ODE", ("exact", "hutchinson"), divergence=divergence)
        check_choice("ODE", (*_ADAPTIVE, *_STAGES), solver=solver)
        check_whole("ODE", steps=steps)
        check_numbers("ODE", "(0, inf)", rtol=rtol, atol=atol)
        if solver in _ADAPTIVE:
            _torchdiffeq(solver)
        self.net = net
        self.divergence = divergence
        self.solver = solver
        self.rtol, self.atol, self.steps = rtol, atol, steps

    def extra_repr(self) -> str:
        """Divergence and solver."""
        how = f"rtol={self.rtol:g}, atol={self.atol:g}" if self.solver in _ADAPTIVE else f"steps={self.steps}"
        return f"{self.divergence}, {self.solver}, {how}"

    def forward(self, x: Tensor, context: Value = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From t = 1 to 0. `noise` is the probe of "hutchinson", ±1 and of x's shape; None draws it."""
        return self._integrate(x, context, noise, 1.0, 0.0)

    def inverse(self, y: Tensor, context: Value = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From t = 0 to 1. `noise` as in `forward`: the same one gives minus the forward's log-det."""
        return self._integrate(y, context, noise, 0.0, 1.0)

    def _estimates(self, numbers: int) -> bool:
        """Whether the log-det is an estimate."""
        return self.divergence == "hutchinson"

    def _integrate(
        self, x: Tensor, context: Value, noise: Tensor | None, start: float, end: float
    ) -> tuple[Tensor, Tensor]:
        refuse_export(self, "takes derivatives of its net in every step of its solver")
        slopes = self._slopes(x, context, self._probe(x, noise))
        state = torch.cat([x.flatten(1), x.new_zeros(x.shape[0], 1)], 1)  # as one: every sample has its own error
        with full_precision(x):
            if self.solver in _STAGES or unreadable(x) or not x.numel():
                state = _in_equal_steps(slopes, state, start, end, _STAGES.get(self.solver, _STAGES["rk4"]), self.steps)
            else:
                state = self._adaptively(slopes, state, start, end)
        return state[:, :-1].reshape(x.shape), state[:, -1]

    def _adaptively(self, slopes: Callable[[Any, Tensor], Tensor], state: Tensor, start: float, end: float) -> Tensor:
        # a row that is not finite stays so, and takes no other with it
        sound = state.isfinite().all(1, keepdim=True)
        state = torch.where(sound, state, 0.0)
        wide, device = widest(state.device), state.device
        landing = torch.tensor([end], dtype=wide, device=device)  # or it would step over the end and interpolate
        least = 10 * torch.finfo(state.dtype).eps
        try:
            states: Tensor = _torchdiffeq(self.solver).odeint(
                slopes,
                state,
                torch.tensor([start, end], dtype=wide, device=device),
                rtol=max(self.rtol, least),
                atol=max(self.atol, least),
                method=self.solver,
                options={
                    "norm": _largest_of_the_samples,
                    "dtype": wide,
                    "step_t": landing,
                    "max_num_steps": _MOST_STEPS,
                },
            )
        except AssertionError as error:
            with torch.no_grad():
                odd = (~slopes(start, state).isfinite().all(1)).nonzero().flatten().tolist()
            what = f"is not finite in rows {odd[:5]}: look at their context" if odd else "overflows or changes too fast"
            raise RuntimeError(
                f"ODE: {self.solver} did not arrive at t = {end:g} ({str(error).partition(':')[0][:80]}); the velocity "
                f'{what}, allow more error, or take solver="rk4"'
            ) from error
        return torch.where(sound, states[-1], torch.nan)

    def _probe(self, x: Tensor, noise: Tensor | None) -> Tensor | None:
        if self.divergence == "exact":
            return None
        if noise is None:
            return torch.randint_like(x, 2) * 2 - 1
        if noise.shape != x.shape:
            raise ValueError(f"ODE: noise {tuple(noise.shape)} for x {tuple(x.shape)}")
        return noise.to(x.dtype)

    def _slopes(self, x: Tensor, context: Value, probe: Tensor | None) -> Callable[[Any, Tensor], Tensor]:
        """The right-hand side for x and log-det side by side, (B, numbers of x + 1)."""
        if not getattr(self.net, "shares_context", False):
            context = map_leaves(lambda c: repeat_rows(c, x.shape[0]), context)

        def slopes(t: Any, state: Tensor) -> Tensor:
            times = state.new_ones(x.shape[0]) * t

            def velocity_of(flat: Tensor) -> Tensor:
                velocity = self.net(flat.reshape(x.shape), times.to(x.dtype), context)
                if not isinstance(velocity, Tensor) or velocity.shape != x.shape:
                    raise ValueError(f"ODE: the net returned {describe(velocity)} for x {describe(x)}")
                return velocity.to(x.dtype).flatten(1)

            velocity, pullback = torch.func.vjp(velocity_of, state[:, :-1])  # type: ignore[misc]
            if probe is None:
                directions = torch.eye(velocity.shape[1], dtype=x.dtype, device=x.device)
                (rows,) = torch.vmap(pullback)(directions[:, None].expand(-1, *velocity.shape))
                divergence = rows.diagonal(dim1=0, dim2=2).sum(1)
            else:
                flat = probe.flatten(1)
                divergence = sum_per_sample(pullback(flat)[0] * flat)
            return torch.cat([velocity, divergence[:, None]], 1)

        return slopes


def flow_matching(
    net: nn.Module,
    x1: Tensor,
    x0: Tensor | None = None,
    sigma: float = 1e-4,
    context: Value = None,
    t: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Flow-matching loss: how far a velocity is from that of straight lines from noise to data (Lipman et al., 2023).

    x_t = (1 − (1 − σ)t)·x0 + t·x1, and the target is x1 − (1 − σ)·x0. The net that it trains is that of an `ODE`,
    which is not solved on the way.

    Args:
        net: called `net(x, t, context)`, t of shape (B,), as by `ODE`.
        x1: data, (B, C, *spatial).
        x0: noise of x1's shape; None draws standard-normal one. Noise that is paired with x1 (optimal transport) makes
            straighter paths.
        sigma: standard deviation about the data at t = 1, in [0, 1].
        context: as the net takes it, B rows.
        t: times (B,) in [0, 1]; None draws uniform ones.
        generator: source of the draws, which are made on its device. None: torch's global one.

    Returns:
        (B,): the squared error, averaged over the numbers of a sample.

    Raises:
        ValueError: if x0 or t is of another shape, or the net returns one.

    Example:
        >>> import flowkit
        >>> net = flowkit.nets.WithTime(flowkit.nets.MLP(3, 2))
        >>> flowkit.flow_matching(net, torch.zeros(4, 2)).shape
        torch.Size([4])
    """
    check_net("flow_matching", net, "flowkit.nets.WithTime(flowkit.nets.MLP(3, 2))")
    check_numbers("flow_matching", "[0, 1]", sigma=sigma)
    if not x1.is_floating_point():
        raise ValueError(f"flow_matching: x1 must be floating-point numbers, got {describe(x1)}; dequantise it")
    device = x1.device if generator is None else generator.device
    if x0 is None:
        x0 = torch.randn(x1.shape, dtype=x1.dtype, device=device, generator=generator).to(x1.device)
    if t is None:
        t = torch.rand(x1.shape[0], dtype=x1.dtype, device=device, generator=generator).to(x1.device)
    if x0.shape != x1.shape or t.shape != x1.shape[:1]:
        raise ValueError(f"flow_matching: x0 {tuple(x0.shape)} and t {tuple(t.shape)} for x1 {tuple(x1.shape)}")
    x0, t = x0.to(x1.dtype), t.to(x1.dtype)
    each = t.view(-1, *(1 for _ in x1.shape[1:]))
    velocity = net((1 - (1 - sigma) * each) * x0 + each * x1, t, context)
    if not isinstance(velocity, Tensor) or velocity.shape != x1.shape:
        raise ValueError(f"flow_matching: the net returned {describe(velocity)} for x {describe(x1)}")
    return (velocity.to(x1.dtype) - (x1 - (1 - sigma) * x0)).square().flatten(1).mean(1)


def _in_equal_steps(
    slopes: Callable[[Any, Tensor], Tensor],
    state: Tensor,
    start: float,
    end: float,
    stages: tuple[tuple[float, ...], tuple[float, ...]],
    steps: int,
) -> Tensor:
    """Runge–Kutta's methods whose stages need the slope before them only."""
    step = (end - start) / steps
    for i in range(steps):
        slope, total = torch.zeros_like(state), torch.zeros_like(state)
        for place, weight in zip(*stages, strict=True):
            slope = slopes(start + (i + place) * step, state + place * step * slope)
            total = total + weight * slope
        state = state + step * total
    return state


def _largest_of_the_samples(error: Tensor) -> Tensor:
    """The root mean square over the numbers of a sample, of the worst sample: none is the worse for its company."""
    return error.detach().square().mean(1).max().sqrt() if error.ndim else error.detach().abs()


def _torchdiffeq(solver: str) -> ModuleType:
    try:
        return importlib.import_module("torchdiffeq")
    except ImportError as error:
        raise ImportError(f'ODE: solver {solver!r} needs torchdiffeq: pip install "flowkit-torch[ode]"') from error
