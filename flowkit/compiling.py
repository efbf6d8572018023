"""torch.compile of what users call: methods of a module compiled one by one, for it and not for its copies."""

import functools
import re
import types
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from flowkit.tree import map_leaves

_Method = TypeVar("_Method", bound=Callable[..., Any])

_LIBRARIES = re.compile(r"(^|\()G\['__(builtins_dict__|import_(flowkit|flowkit_models|torch)(_dot_|'))")
"""Of guards on what was reached from a module of ours, torch's, or Python's built-in names."""

# beside the modules, not in them: a copy, a pickle or a state dict has none of it, and compiles anew
_graphs: WeakKeyDictionary[nn.Module, dict[str, Callable[..., Any]]] = WeakKeyDictionary()


class Compilable(nn.Module):
    """Base class of modules some of whose methods, marked `compiled`, `compile` has compiled."""

    compile_options: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles what users call, the call of the module itself included; in place, at the first call of each.

        Checks, draws from generators and the search for shapes stay outside of the graphs; each is whole
        (`fullgraph=True` holds), and takes every batch of two rows or more. Parameters are inputs of the graphs:
        loading a state dict or training compiles nothing anew. A `deepcopy` is compiled too, by itself. Other sizes,
        dtypes, or modes (train, eval, no_grad) are another graph, as everywhere in `torch.compile`.

        Each call asks whether the graph still holds: of the modules, their parameters and hooks, the arguments and
        your own code, but not of the functions, classes and constants of torch, flowkit and Python, which are taken to
        stay what they are. After a patch of one of these, compile anew; a `guard_filter_fn` in `options` is taken in
        place of this choice, and with `mode` everything is asked about.

        Args:
            args: as for `torch.compile`.
            kwargs: as for `torch.compile`: `mode="reduce-overhead"`, `fullgraph=True`, `backend=…`. With
                `dynamic=False` each size of a batch has a graph of its own, which is a little faster.
        """
        self.compile_options = (args, kwargs)
        _graphs.pop(self, None)


def compiled(method: _Method) -> _Method:
    """Marks a method that `compile` compiles; its tensors, and those of its trees, share the batch dimension."""

    @functools.wraps(method)
    def call(self: Compilable, *args: Any) -> Any:
        if torch.compiler.is_compiling() or self.compile_options is None:
            return method(self, *args)
        given, options = self.compile_options
        graphs = _graphs.setdefault(self, {})
        if method.__name__ not in graphs:
            graphs[method.__name__] = torch.compile(_own(method), *given, **_completed(options))
        told = _any_batch if options.get("dynamic") is not False else lambda x: x
        return graphs[method.__name__](self, *(map_leaves(told, value) for value in args))

    return call  # type: ignore[return-value]


def _completed(options: dict[str, Any]) -> dict[str, Any]:
    """The same options and, unless they choose otherwise, which guards to keep.

    In dicts of their own, since `torch.compile` takes things out of those that it is given.
    """
    its = {name: dict(value) if isinstance(value, dict) else value for name, value in options.items()}
    if its.get("mode") is None and hasattr(torch.compiler, "keep_tensor_guards_unsafe"):  # older ones have no filter
        its["options"] = {"guard_filter_fn": _of_users, **(its.get("options") or {})}
    return its


def _of_users(guards: Sequence[Any]) -> list[bool]:
    """Which guards to keep: not those on libraries' code and constants, but on their dicts, such as global hooks."""
    return [isinstance(guard.value, dict) or not _LIBRARIES.search(guard.name) for guard in guards]


def _own(method: Any) -> Any:
    """The function with a code object of its own: graphs are counted, and limited, for each of these."""
    copy = types.FunctionType(
        method.__code__.replace(), method.__globals__, method.__name__, method.__defaults__, method.__closure__
    )
    return functools.update_wrapper(copy, method)


def _any_batch(x: Any) -> Any:
    """The same tensor, told to be one of any number of rows; not in place, since x is the user's."""
    if not isinstance(x, Tensor) or x.ndim == 0:
        return x
    x = x.view_as(x)
    torch._dynamo.maybe_mark_dynamic(x, 0)
    return x
