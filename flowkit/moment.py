"""The state of modules at one moment, so that they can be gone through again as they were."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)

_Result = TypeVar("_Result")


class _Place(NamedTuple):
    """Where a tensor is, under which name, and what was there."""

    owner: dict[str, Tensor | None]
    key: str
    path: str
    tensor: Tensor


class Moment:
    """Parameters, buffers and modes of some modules as they are now. Buffers are copied, parameters are not.

    Args:
        parts: the modules.
    """

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        self._held = _Held(parts)
        self._modes = [(path, module, module.training) for path, module in self._held.named_modules()]
        self._parameters = _places((path, module._parameters) for path, module, _ in self._modes)
        self._buffers = _places((path, module._buffers) for path, module, _ in self._modes)
        # aliases of the same memory and version counter; they stay where they are if somebody sets `parameter.data`
        self._values = {p.tensor: (p.tensor.detach(), p.tensor.requires_grad) for p in self._parameters}
        self._working: dict[Tensor, Tensor] = {}
        self._copies = {b.tensor: (b.tensor.detach().clone(), b.tensor._version) for b in self._buffers}

    def drawing(self) -> str | None:
        """The first module that moves numbers by others that it draws, so that it can't be gone through again."""
        for path, module, training in self._modes:
            if (isinstance(module, _DROPOUTS) and training and module.p > 0) or getattr(module, "_draws", False):
                return f"{type(module).__name__} ({path})"
        return None

    def wanted(self) -> list[Tensor]:
        """The parameters that take gradients; within `again`, those that stand for them."""
        live = {place.tensor: place.owner.get(place.key) for place in self._parameters}
        return [tensor for p, tensor in live.items() if self._values[p][1] and tensor is not None]

    def values(self) -> list[Tensor]:
        """Aliases of all parameters, to be saved."""
        return [value for value, _ in self._values.values()]

    def again(self, values: Sequence[Tensor], function: Callable[[], _Result]) -> _Result:
        """Calls a function while the modules are as they were.

        Args:
            values: those of `values()`, as they come back from where they were saved.
            function: what to do.

        Raises:
            RuntimeError: if a module has been replaced inside another.
        """
        if [module for _, module, _ in self._modes] != list(self._held.modules()):
            raise RuntimeError("Reversible: a module was replaced inside a part between forward and backward")
        now = {p: value.detach().requires_grad_(self._values[p][1]) for p, value in self._moved(values)}
        self._working = {b: copy.clone() for b, copy in self._changed()}
        now |= self._working
        places = [*self._parameters, *self._buffers]
        moved = {place.path: now[place.tensor] for place in places if place.tensor in now}
        modes = [(module, module.training) for _, module, training in self._modes if module.training != training]
        try:
            for module, training in modes:
                module.training = not training
            result: _Result = torch.func.functional_call(self._held, moved, (function,), tie_weights=False)
        finally:
            self._working = {}
            for module, training in modes:
                module.training = training
        return result

    def rewind(self) -> None:
        """Within `again`: takes back what has been written into buffers."""
        for b, working in self._working.items():
            working.copy_(self._copies[b][0])

    def _moved(self, values: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Parameters that are no longer in their places, or no longer the same, or hooked, with their saved values."""
        away = {place.tensor for place in self._parameters if place.owner.get(place.key) is not place.tensor}
        for (p, (_, wanted)), value in zip(self._values.items(), values, strict=True):
            replaced = p in away or p.requires_grad != wanted or p.data_ptr() != value.data_ptr()
            if replaced or p._backward_hooks:  # a hook on its gradient acts when that is handed on, not here as well
                yield p, value

    def _changed(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Buffers of modules that have written into theirs, or put others in their places, with their copies.

        Not all that write into a buffer count it as a new version: a batch norm's statistics are known by its counter.
        """
        writers = [
            id(place.owner)
            for place in self._buffers
            if place.owner.get(place.key) is not place.tensor or place.tensor._version != self._copies[place.tensor][1]
        ]
        for place in self._buffers:
            if id(place.owner) in writers:
                yield place.tensor, self._copies[place.tensor][0]


class _Held(nn.Module):
    """Modules under one roof, for `functional_call`."""

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, function: Callable[[], Any]) -> Any:
        """Calls the function."""
        return function()


def _places(owners: Iterable[tuple[str, dict[str, Tensor | None]]]) -> list[_Place]:
    return [
        _Place(owner, key, f"{path}.{key}", tensor)
        for path, owner in owners
        for key, tensor in owner.items()
        if tensor is not None
    ]
