"""Training objectives and importance sampling: forward and reverse KL, α-divergences, log Z, ESS, Pareto k̂."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flowkit.arguments import check_numbers, check_whole
from flowkit.bijector import widest
from flowkit.data_checks import check_has, check_weights
from flowkit.tree import Value, describe, map_leaves

Target = Callable[[Any], Tensor]
"""x (B, ...) to its log-density (B,), normalised or not."""


def forward_kl(flow: Any, x: Tensor, weights: Tensor | None = None, context: Value = None) -> Tensor:
    """Maximum likelihood: the mean of −log q(x), which is KL(p‖q) up to the entropy of the data.

    Args:
        flow: a `Flow`, or what has its `log_prob(x, context)`.
        x: data (B, ...).
        weights: None, or one for each row (B,), not negative: the mean is Σ w·(−log q) / Σ w. With importance weights
            p/q', and x drawn from another density q', it estimates the cross-entropy of p.
        context: None, or a context with B rows.

    Returns:
        A scalar, in nats.

    Raises:
        ValueError: for weights of another shape than (B,), or names the rows whose weight is negative or not finite;
            for no row, or none that counts.
        TypeError: if the flow has no `log_prob`, or weights are no tensor.
    """
    check_has("forward_kl", flow, "log_prob")
    loss: Tensor = -flow.log_prob(x, context)
    if not loss.numel():
        raise ValueError(f"forward_kl: needs at least one row of x, got {describe(x)}")
    if weights is None:
        return loss.mean()
    check_weights("forward_kl", weights, len(loss))
    weights = weights.to(widest(weights.device))  # of which the scale may be any
    weights = (weights / weights.max()).to(loss.dtype)
    return (weights * loss).sum() / weights.sum()


def reverse_kl(
    flow: Any,
    target: Target,
    n: int,
    context: Value = None,
    path: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Variational inference: the mean of log q(x) − log p(x) over draws of the flow, KL(q‖p) − log Z.

    Args:
        flow: a `Flow` whose sampling is differentiable.
        target: x to log p(x), normalised or not. With a context of B rows it gets n·B rows of x, all B of the first
            draw first.
        n: number of draws (per context).
        context: None, or a context with B rows.
        path: leaves the score out of the gradient, whose mean is zero: log q is evaluated at detached parameters in
            x(φ). Where q is p, every draw's gradient is then zero, not only their mean ("Sticking the landing",
            Roeder et al. 2017). It costs another pass.
        generator: source of the draws. None: torch's global one.

    Returns:
        A scalar, in nats.

    Raises:
        ValueError: if the target does not return one number a row.
        TypeError: if the flow can't be drawn from, the target is no function, or n no whole number.

    Warns:
        UserWarning: for a base that learns, but whose draws carry no gradients to all of its parameters (`Mixture`,
            `Resampled`).

    Example:
        >>> import flowkit
        >>> flow = flowkit.Flow(flowkit.ActNorm(2), flowkit.StandardNormal())
        >>> normal = torch.distributions.MultivariateNormal(torch.ones(2), torch.eye(2))
        >>> reverse_kl(flow, normal.log_prob, 1000, path=True).backward()
        >>> bool((flow.bijector.bias.grad > 0).all())  # the draws have to move up, so the bias has to fall
        True
    """
    _tell_of_draws("reverse_kl", flow)
    return -_log_weights("reverse_kl", flow, target, n, context, path, generator)[0].mean()


def alpha_divergence(
    flow: Any,
    target: Target,
    n: int,
    alpha: float,
    context: Value = None,
    path: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Divergence of order α between the normalised target p and the flow q, from draws of the flow.

    With w = p/q and E the mean over q, it is log(E[wᵅ] / E[w]ᵅ) / (α(α − 1)). That is log(1 + α(α − 1)·A) / (α(α − 1))
    for Amari's A, and Rényi's divergence over α: it orders densities as they do, its gradients do not explode with
    the weights, and Z does not matter. α = 0 is KL(q‖p), α = 1 is KL(p‖q), α = 2 is log(n/ESS)/2. It is never negative,
    for n draws too, and 0 where q is p. Small α seeks one mode, α ≥ 1 covers all.

    Args:
        flow: as for `reverse_kl`.
        target: as for `reverse_kl`.
        n: number of draws (per context).
        alpha: α, any finite number.
        context: None, or a context with B rows.
        path: gradients through x alone, of less variance: for every α minus the mean of ∂ log w with weights ∝ wᵅ
            (doubly reparametrised, Tucker et al. 2019).
        generator: source of the draws. None: torch's global one.

    Returns:
        A scalar; ∞ for α ≤ 0 where the target is 0 at a draw. Its gradient takes Z as given.

    Raises:
        ValueError: if α is not finite, or the target does not return one number a row.
    """
    check_numbers("alpha_divergence", "(-inf, inf)", alpha=alpha)
    if min(abs(alpha), abs(alpha - 1)) < 1e-6:  # where rounding is larger than what the order changes
        alpha = round(alpha)
    if path or alpha != 1:
        _tell_of_draws("alpha_divergence", flow)
    log_weights, x, repeated = _log_weights("alpha_divergence", flow, target, n, context, path, generator)
    fixed = log_weights.detach()
    outside = fixed == -math.inf  # there the target is 0
    log_weights = log_weights.masked_fill(outside, 0.0)
    shares = (alpha * log_weights.detach()).masked_fill(outside, -math.inf).softmax(0)
    if path:
        slope = -(shares * log_weights).sum(0)
    elif alpha == 1:  # no weight depends on φ: the gradient of the cross-entropy alone
        slope = -(shares * flow.log_prob(x.detach(), repeated).view_as(shares)).sum(0)
    else:  # less a sum whose mean is 0, that of Z's gradient: as large as the first at α = 1, where its divisor is 0
        shares = shares - min(max(alpha, 0.0), 1.0) * fixed.softmax(0)
        slope = (shares * log_weights).sum(0) / (alpha - 1)
    value = _divergence(fixed.to(widest(fixed.device)), alpha).to(fixed.dtype)
    return (value + slope - slope.detach()).mean()


def _divergence(log_weights: Tensor, alpha: float) -> Tensor:
    log_z, outside = _log_mean(log_weights), log_weights == -math.inf
    inside = log_weights.masked_fill(outside, 0.0)
    if alpha == 0:
        found = log_z - inside.mean(0)
    elif alpha == 1:
        found = (log_weights.softmax(0) * (inside - log_z)).sum(0)
    else:
        found = (_log_mean((alpha * inside).masked_fill(outside, -math.inf)) - alpha * log_z) / (alpha * (alpha - 1))
    if alpha <= 0:  # the flow has mass where the target has none
        found = found.masked_fill(outside.any(0), math.inf)
    return found.clamp_min(0)


class Importance(NamedTuple):
    """Importance sampling of a target from a flow: n draws, for each of B contexts if there are any.

    Attributes:
        log_weights: log p(x) − log q(x) of each draw, (n,) or (n, B).
        ess: effective number of draws, (Σ w)² / Σ w², in 0 … n; a scalar or (B,). ess/n is 1 where q ∝ p.
        log_z: estimate of log ∫p, a scalar or (B,). Its standard error is about √(1/ess − 1/n).
        pareto_k: shape of the generalised Pareto distribution of the largest weights (PSIS, Vehtari et al. 2024), a
            scalar or (B,). Below 0.5 the weights have a variance; above 0.7 neither log_z nor ess is to be trusted,
            however good they look. −inf where all weights are equal, ∞ where few are above the others, NaN of
            fewer than 25 draws.
    """

    log_weights: Tensor
    ess: Tensor
    log_z: Tensor
    pareto_k: Tensor


@torch.no_grad()
def importance(
    flow: Any, target: Target, n: int, context: Value = None, generator: torch.Generator | None = None
) -> Importance:
    """Importance weights of a target at draws of a flow, and what they tell: log Z, ESS, Pareto k̂.

    All of it is blind to modes of the target that the flow never draws.

    Args:
        flow: a `Flow`; no gradients are taken.
        target: as for `reverse_kl`.
        n: number of draws (per context).
        context: None, or a context with B rows.
        generator: source of the draws. None: torch's global one.

    Raises:
        ValueError: if the target returns NaN, or not one number a row.

    Example:
        >>> import flowkit
        >>> flow = flowkit.Flow(flowkit.ActNorm(2), flowkit.StandardNormal())
        >>> found = importance(flow, lambda x: -x.square().sum(1) / 2, 100)  # Z is 2π
        >>> print(f"{found.log_z:.4f}, {found.ess:.0f}")
        1.8379, 100
    """
    log_weights = _log_weights("importance", flow, target, n, context, False, generator)[0]
    odd = int((log_weights.isnan() | (log_weights == math.inf)).sum())
    if odd:
        raise ValueError(f"importance: the weights of {odd} of {log_weights.numel()} draws are NaN or infinite")
    log_z = _log_mean(log_weights)
    ess = (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp().nan_to_num(0.0)
    columns = log_weights.double().flatten(1).unbind(1) if log_weights.ndim > 1 else [log_weights.double()]
    pareto_k = torch.tensor([_pareto_k(column) for column in columns], dtype=log_z.dtype, device=log_z.device)
    return Importance(log_weights, ess, log_z, pareto_k.view(log_z.shape))


def _tell_of_draws(who: str, flow: Any) -> None:
    """Warns of parameters that gradients of draws don't reach."""
    base = getattr(flow, "base", None)
    if getattr(flow, "has_rsample", True) or not torch.is_grad_enabled() or not isinstance(base, nn.Module):
        return
    if any(p.requires_grad for p in base.parameters()):
        text = (
            f"{who}: draws of the base {type(base).__name__} carry no gradients to all of its parameters, which so "
            "learn nothing but noise; train it by forward_kl, or hold them fixed with base.requires_grad_(False)"
        )
        warnings.warn(text, stacklevel=3)


def _log_weights(
    who: str,
    flow: Any,
    target: Target,
    n: int,
    context: Value,
    path: bool,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Value]:
    """Log p(x) − log q(x), (n,) or (n, B); the draws, (n, ...) or (n·B, ...), and a row of the context for each."""
    check_has(who, flow, "log_prob", "sample_and_log_prob")
    if path and not isinstance(flow, nn.Module):
        raise TypeError(f"{who}: path=True needs a module, whose parameters can be held fixed, got {describe(flow)}")
    if not callable(target):
        raise TypeError(f"{who}: the target must be a function of x, got {describe(target)}")
    check_whole(who, n=n)
    x, log_q = flow.sample_and_log_prob(n, context, generator=generator)
    rows = x.flatten(0, log_q.ndim - 1)
    repeated = map_leaves(lambda c: c.repeat(n, *(1 for _ in c.shape[1:])), context)
    if path:
        log_q = _at_detached(flow, rows, repeated).view_as(log_q)
    log_p = target(rows)
    if not isinstance(log_p, Tensor) or log_p.shape != (len(rows),):
        raise ValueError(
            f"{who}: the target must return ({len(rows)},), a log-density for each row of x {describe(rows)}, "
            f"got {describe(log_p)}"
        )
    return log_p.view_as(log_q) - log_q, rows, repeated


def _at_detached(flow: nn.Module, x: Tensor, context: Value) -> Tensor:
    """Log q(x), differentiable in x alone."""
    fixed = {name: parameter.detach() for name, parameter in flow.named_parameters()}
    log_q: Tensor = functional_call(flow, fixed, (x, map_leaves(Tensor.detach, context)))
    return log_q


def _log_mean(log_values: Tensor) -> Tensor:
    return log_values.logsumexp(0) - math.log(log_values.shape[0])


def _pareto_k(log_weights: Tensor) -> float:
    """Shape of the tail of weights (n,), by the estimator of Zhang and Stephens (2009), as PSIS has it.

    Its posterior mean over a grid of scales, drawn to ½ as by ten more observations.
    """
    n = len(log_weights)
    count = min(n // 5, math.ceil(3 * math.sqrt(n)))
    if count < 5:
        return math.nan
    ordered = (log_weights - log_weights.max()).sort().values
    cut, tail = ordered[-count - 1], ordered[-count:]
    if float(tail[-1] - cut) < 1e-9:  # equal up to rounding
        return -math.inf
    excess = tail.exp() - cut.exp()
    largest, quartile = excess[-1], excess[int(count / 4 + 0.5) - 1]
    if quartile == 0:  # few draws have weight at all
        return math.inf
    points = 30 + int(math.sqrt(count))
    grid = torch.arange(1, points + 1, dtype=excess.dtype, device=excess.device)
    theta = 1 / largest + (1 - (points / (grid - 0.5)).sqrt()) / (3 * quartile)
    shapes = torch.log1p(-theta[:, None] * excess).mean(1)
    likelihood = count * ((-theta / shapes).log() - shapes - 1)
    theta_mean = (likelihood.softmax(0) * theta).sum()
    shape = float(torch.log1p(-theta_mean * excess).mean())
    return (count * shape + 5) / (count + 10)
