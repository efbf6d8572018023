"""`check_bijector`: every law on one bijector and one input."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.testing import laws
from flowkit.testing.compare import fresh, gradients_of, inner, noise_source, stated, stretched
from flowkit.tree import Value, leaves, map_leaves


def check_bijector(
    b: nn.Module,
    x: Value,
    context: Value = None,
    sizes: Sequence[Sequence[int]] | None = None,
    compile: bool = False,
) -> None:
    """Checks that b is what it says: an invertible map with the right log-det, in every respect that has a law.

    The laws run on a float64 copy with the parameters as they are, and then on a copy with all of them moved a
    little, so that no log-det is zero by accident; in train and in eval mode; at x, at the middle of the domain, and 3
    and 10 times as far from there; at any y of the codomain. b itself is left alone, and so is the process's random
    state, unless b draws from it. The Jacobian is built number by number: keep x small (a few hundred numbers per
    sample), with a batch of at least 2.

    A map that does not take, or reach, all reals says so by `domain` and `codomain`, constraints of
    `torch.distributions`.

    Not looked at: plain attributes, which may be hyperparameters or state that no state dict carries; values beyond 10
    times x; other devices; other batches than yours repeated, and its single rows; other contexts than yours; what
    tracing makes of it, unless asked. Second derivatives may raise, but not be wrong. Two wrong maps that fit are a
    right map: whether a composition is that of its parts is asked in the repository's own tests.

    Args:
        b: a bijector, or any module with its two methods.
        x: a valid input, with its batch.
        context: what b gets as context.
        sizes: further spatial sizes to try, each like (6, 4). A log-det that is right at one size only needs them.
        compile: also compare with `torch.compile(fullgraph=True)`, both ways (slow).

    Raises:
        AssertionError: names the bijector and the broken law.

    Example:
        >>> import flowkit
        >>> check_bijector(flowkit.ActNorm(2), torch.randn(3, 2, 4, 4), sizes=[(6, 2)])
    """
    noise = noise_source()
    with torch.enable_grad():
        for version in (copy.deepcopy(b).double(), _moved(b, 0.2, noise).double()):
            for mode in _modes(version, x, context):
                version.train(mode)
                for law in (laws.protocol, laws.facts, *laws.EXACT[1:], *laws.REGIMES):  # other laws go by the facts
                    _ask(law, version, x, context, torch.float64)
                for size in sizes or ():
                    _ask(laws.image_size, version, x, context, torch.float64, size)
        for law in (*laws.POLICIES, *([laws.compiled] if compile else [])):
            _ask(law, _moved(b, 0.05, noise).float(), x, context, torch.float32)


def _modes(b: nn.Module, x: Value, context: Value) -> list[bool]:
    """Train and eval mode, the one that b is in first; that one alone if nothing differs in the other."""
    own = b.training
    x, context = _to(x, torch.float64), _to(context, torch.float64)
    try:
        same = all(
            torch.equal(p, q)
            for p, q in zip(_seen(b.train(own), x, context), _seen(b.train(not own), x, context), strict=True)
        )
    except Exception:  # the laws will name it
        same = False
    b.train(own)
    return [own] if same else [own, not own]


def _seen(b: Any, x: Value, context: Value) -> list[Tensor]:
    """What there is to see of a map in one mode: values, log-dets and gradients both ways, near and far."""
    b = copy.deepcopy(b)
    seen: list[Tensor] = []
    for factor in (1.0, 3.0, 10.0):
        value = stretched(stated(b, "domain"), x, factor)
        for method in (b, b.inverse):
            value, its_context = map_leaves(fresh, value), map_leaves(fresh, context)
            y, logdet = method(value, its_context)
            inputs = [p for p in (*leaves(value), *leaves(its_context), *b.parameters()) if p.requires_grad]
            seen += [*leaves(y), logdet, *gradients_of(inner(map_leaves(noise_source(), y), y) + logdet.sum(), inputs)]
            with torch.no_grad():
                y, logdet = method(value, its_context)
                seen += [*leaves(y), logdet]
            value = y
    return seen


def _ask(law: Callable[..., None], b: nn.Module, x: Value, context: Value, dtype: torch.dtype, *rest: Any) -> None:
    """Tries one law on copies of the arguments. Whatever is raised, it is the law that is broken."""
    try:
        law(b, _to(x, dtype), _to(context, dtype), *rest)
    except AssertionError:
        raise
    except Exception as error:
        why = f"raised {type(error).__name__}: {error}"
        raise AssertionError(f"{type(b).__name__} breaks the law: {law.__name__}: {why}") from error


def perturb(b: nn.Module, amount: float = 0.2) -> nn.Module:
    """Moves every parameter by Gaussian noise, in place: `amount`, over √fan-in for matrices and kernels.

    Returns:
        b itself.
    """
    return _perturbed(b, amount, torch.randn_like)


def _moved(b: nn.Module, amount: float, noise: Callable[[Tensor], Tensor]) -> nn.Module:
    return _perturbed(copy.deepcopy(b), amount, noise)


def _perturbed(b: nn.Module, amount: float, noise: Callable[[Tensor], Tensor]) -> nn.Module:
    with torch.no_grad():
        for parameter in b.parameters():
            fan_in = math.prod(parameter.shape[1:]) or 1
            parameter.add_(noise(parameter) * amount / fan_in**0.5)
    return b


def _to(value: Value, dtype: torch.dtype) -> Value:
    def convert(leaf: Tensor) -> Tensor:
        return leaf.detach().to(dtype if leaf.is_floating_point() else leaf.dtype, copy=True)

    return map_leaves(convert, value)
