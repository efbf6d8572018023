"""What is asked of tracing: `torch.compile`, `torch.export` with any batch, and the transforms of `torch.func`."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacfwd, jacrev

from flowkit.bijector import Bijector
from flowkit.testing.compare import close, name_of, repeated, row
from flowkit.tree import Value, leaves, map_leaves


def compiled(b: nn.Module, x: Value, context: Value = None, backend: str = "inductor") -> None:
    """`torch.compile(fullgraph=True)` takes both directions and changes nothing but rounding."""
    inverse = b.inv if isinstance(b, Bijector) else _InverseOf(b)
    with torch.no_grad():
        y, forward = b(x, context)
        for direction, module, argument, expected in (
            ("forward", b, x, (y, forward)),
            ("inverse", inverse, y, (x, -forward)),
        ):
            torch.compiler.reset()
            try:
                result = torch.compile(module, fullgraph=True, backend=backend)(argument, context)
            except Exception as error:
                raise AssertionError(f"{name_of(b)} breaks the law: compiles ({direction}): {error}") from error
            close(result, expected, b, f"compiles ({direction}, same values)", 1e-4)


def exported(b: nn.Module, x: Value, context: Value = None) -> None:
    """`torch.export` takes both directions with a batch of any size."""
    with torch.no_grad():
        y = b(x, context)[0]
        for direction, module, value in (("forward", b, x), ("inverse", _InverseOf(b), y)):
            batch = torch.export.Dim("batch", max=1024)
            shapes = {"x": _dynamic(value, batch), "context": _dynamic(context, batch)}
            try:
                program = torch.export.export(_Taking(module), (value, context), dynamic_shapes=shapes).module()
            except Exception as error:
                raise AssertionError(f"{name_of(b)} breaks the law: exports ({direction}): {error}") from error
            many, its_context = (repeated(v, 3) for v in (value, context))
            got = program(many, its_context)
            close(got, module(many, its_context), b, f"exports ({direction}, at another batch)", 1e-4)


def transformed(b: nn.Module, x: Value, context: Value = None) -> None:
    """`vmap`, `jacrev`, `jacfwd` and `functional_call` say the same as calls."""
    with torch.no_grad():
        y = b(x, context)[0]
    for direction, module, value in (("forward", b, x), ("inverse", _InverseOf(b), y)):
        for name, transform in (("vmap", _vmapped), ("jacrev", _jacobian(jacrev)), ("jacfwd", _jacobian(jacfwd))):
            try:
                got, expected = transform(module, value, context)
            except Exception as error:
                raise AssertionError(f"{name_of(b)} breaks the law: {name} ({direction}): {error}") from error
            close(got, expected, b, f"{name} ({direction})", 1e-4)
        state = {key: tensor.detach().clone() for key, tensor in module.state_dict(keep_vars=True).items()}
        got = functional_call(module, state, (value, context))
        close(got, module(value, context), b, f"functional_call ({direction})", 1e-4)


def _vmapped(module: nn.Module, value: Value, context: Value) -> tuple[Value, Value]:
    def of_leaves(*numbers: Tensor) -> tuple[Tensor, ...]:  # a tree may hold None, which vmap does not take
        parts = iter(numbers)
        return tuple(leaves(module(map_leaves(lambda _: next(parts), value), context)))

    got = torch.vmap(of_leaves)(*(torch.stack([leaf, 0.5 * leaf]) for leaf in leaves(value)))
    other = module(map_leaves(lambda leaf: 0.5 * leaf, value), context)
    pairs = zip(leaves(module(value, context)), leaves(other), strict=True)
    return got, tuple(torch.stack(pair) for pair in pairs)


def _jacobian(transform: Any) -> Any:
    """Of the log-det and a part of the value, by the numbers of one sample; against autograd's."""

    def jacobians(module: nn.Module, value: Value, context: Value) -> tuple[Value, Value]:
        one, its_context = row(value, 0), row(context, 0)
        sizes = [leaf.numel() for leaf in leaves(one)]
        flat = torch.cat([leaf.flatten() for leaf in leaves(one)])

        def of_flat(numbers: Tensor) -> Tensor:
            parts = iter(numbers.split(sizes))
            v = map_leaves(lambda leaf: next(parts).view(leaf.shape), one)
            y, logdet = module(v, its_context)
            first: Tensor = next(leaves(y))
            return torch.cat([first.flatten()[:3], logdet])

        return transform(of_flat)(flat), torch.autograd.functional.jacobian(of_flat, flat)

    return jacobians


def _dynamic(value: Value, batch: Any) -> Any:
    return map_leaves(lambda leaf: {0: batch}, value)


class _Taking(nn.Module):
    """A module whose arguments have names of their own: those of `inverse` differ."""

    b: Any

    def __init__(self, b: nn.Module) -> None:
        super().__init__()
        self.b = b

    def forward(self, x: Value, context: Value = None) -> Any:
        return self.b(x, context)


class _InverseOf(nn.Module):
    b: Any

    def __init__(self, b: nn.Module) -> None:
        super().__init__()
        self.b = b

    def forward(self, y: Value, context: Value = None) -> Any:
        return self.b.inverse(y, context)
