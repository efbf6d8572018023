"""`check_bijector`: every law on one bijector and one input."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.testing import laws
from flowkit.tree import Value, map_leaves


def check_bijector(
    b: nn.Module,
    x: Value,
    context: Value = None,
    sizes: Sequence[Sequence[int]] | None = None,
    compile: bool = False,
) -> None:
    """Checks that b is what it says: an invertible map with the right log-det, in every respect that has a law.

    The laws run on a float64 copy with the parameters as they are, and then on a copy with all of them moved a
    little, so that no log-det is zero by accident. b itself is left alone. The Jacobian is built number by number:
    keep x small (a few hundred numbers per sample), with a batch of at least 2.

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
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        for version in (copy.deepcopy(b).double(), perturb(copy.deepcopy(b)).double()):
            for law in laws.EXACT:
                _ask(law, version, x, context, torch.float64)
            for size in sizes or ():
                _ask(laws.image_size, version, x, context, torch.float64, size)
        for law in (*laws.POLICIES, *([laws.compiled] if compile else [])):
            _ask(law, perturb(copy.deepcopy(b), 0.05).float(), x, context, torch.float32)


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
    with torch.no_grad():
        for parameter in b.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.add_(torch.randn_like(parameter) * amount / fan_in**0.5)
    return b


def _to(value: Value, dtype: torch.dtype) -> Value:
    def convert(leaf: Tensor) -> Tensor:
        return leaf.detach().to(dtype if leaf.is_floating_point() else leaf.dtype, copy=True)

    return map_leaves(convert, value)
