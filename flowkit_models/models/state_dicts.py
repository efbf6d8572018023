"""State dicts in what a file holds: under wrappers, prefixes and averages, beside optimizers and discriminators."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from flowkit_models.models.unpickling import StoredTensor

Leaf: TypeAlias = Tensor | StoredTensor
State: TypeAlias = dict[str, Leaf]

DEEPEST = 32
"""Containers inside each other, and parts of prefixes, that are looked into."""

_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
_COUNTERS = re.compile(
    r"(n|num)_averaged|(global_|current_)?(steps?|iter(ation)?s?|epochs?)|num_updates|decay|num_batches_tracked"
)
_AVERAGES = re.compile(r"(^|[^a-z])(ema|shadow|averaged?|avg|swa|polyak)([^a-z]|$)|^netE$", re.IGNORECASE)
_MOMENTS = re.compile(r"optim|exp_avg|moment|grad|scheduler", re.IGNORECASE)


@dataclass
class Found:
    """A state dict.

    Attributes:
        state: tensors by name, without wrappers.
        place: keys and prefixes under which it lay.
        known: it is the state dict of a network that was looked for.
        dropped: names of counters beside the weights.
    """

    state: State
    place: tuple[str, ...]
    known: bool = False
    dropped: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The place in words."""
        return ".".join(self.place) or "what stands outside"

    @property
    def rank(self) -> int:
        """0 for averaged weights, which are the better ones; 2 for an optimizer's."""
        place = ".".join(self.place)
        return 2 if _MOMENTS.search(place) else 0 if any(_AVERAGES.search(part) for part in self.place) else 1


def find_state(content: Any, known: Callable[[State], bool], source: str) -> State:
    """The state dict in what a file holds: one that is known rather than the largest, averages rather than others.

    Where nothing is known as it stands, it is looked for under what names have in common up to a dot.

    Args:
        content: mappings, lists and tensors in each other; cycles and shared parts don't matter.
        known: tells if it knows the network of a state dict.
        source: names the file in warnings.

    Returns:
        Tensors by name, {} if there are none.

    Warns:
        UserWarning: names counters that were dropped; and, of several that are known, which was taken.
    """
    mappings = list(_mappings(content))
    found = [f for place, state in mappings for f in _known_in(place, state, known)]
    found = sorted([*found, *_averaged_lists(content, found)], key=lambda f: f.rank)
    if not found:
        largest = max((len(state) for _, state in mappings), default=0)
        whole = [Found(state, place) for place, state in mappings if len(state) == largest]
        return min(whole, key=lambda f: f.rank).state if whole else {}
    first = found[0]
    left = [other.title for other in found[1:] if other.rank < 2]
    if left:
        what = "the averaged weights" if first.rank == 0 else "the first of several"
        warnings.warn(f"{source}: took {first.title}, {what}, and left {', '.join(left[:3])}", stacklevel=4)
    if first.dropped:
        warnings.warn(f"{source}: left out {', '.join(first.dropped)}: counters, no weights", stacklevel=4)
    return first.state


def _mappings(content: Any) -> Iterator[tuple[tuple[str, ...], State]]:
    """All mappings that hold tensors, outer ones first: their places, and the tensors. Each object once."""
    for place, value in _containers(content):
        if isinstance(value, Mapping) and (
            state := {str(name): part for name, part in value.items() if _is_leaf(part)}
        ):
            yield place, _unwrapped(state)


def _averaged_lists(content: Any, found: list[Found]) -> Iterator[Found]:
    """Averages without names, as torch_ema stores them: as many tensors as a state dict has, of its shapes."""
    for place, value in _containers(content):
        if isinstance(value, Mapping) or not value or not any(_AVERAGES.search(part) for part in place):
            continue
        shapes = [tuple(part.shape) for part in value if _is_leaf(part)]
        for other in found:
            if len(shapes) == len(value) and shapes == [tuple(leaf.shape) for leaf in other.state.values()]:
                yield Found(dict(zip(other.state, value, strict=True)), place, True)
                break


def _containers(content: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All mappings, lists and tuples, outer ones first, with their places. Each object once."""
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)] if _is_container(content) else []
    while waiting:
        nested: list[tuple[tuple[str, ...], Any]] = []
        for place, value in waiting:
            if id(value) in seen:
                continue
            seen.add(id(value))
            yield place, value
            if len(place) < DEEPEST:
                parts = value.items() if isinstance(value, Mapping) else enumerate(value)
                nested += [((*place, str(name)[:80]), part) for name, part in parts if _is_container(part)]
        waiting = nested


def _is_leaf(value: Any) -> bool:
    return isinstance(value, Tensor | StoredTensor)


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _unwrapped(state: State) -> State:
    """Without what DDP, FSDP and torch.compile put into names, unless two tensors would get one name."""
    plain = {_plain(name): tensor for name, tensor in state.items()}
    return plain if len(plain) == len(state) else state


def _plain(name: str) -> str:
    name = _WRAPPERS.sub("", name)
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def _known_in(place: tuple[str, ...], state: State, known: Callable[[State], bool]) -> Iterator[Found]:
    """Known state dicts in one: itself, or else what is under each first part of its names."""
    waiting = [Found(state, place)]
    for _ in range(DEEPEST):
        deeper: list[Found] = []
        for found in waiting:
            counters = [name for name, leaf in found.state.items() if _is_counter(name, leaf)]
            weights = {name: leaf for name, leaf in found.state.items() if name not in counters}
            dropped = [*found.dropped, *(".".join((*found.place[len(place) :], name)) for name in counters)]
            if known(weights):
                yield Found(weights, found.place, True, dropped)
                continue
            groups: dict[str, State] = {}
            for name, leaf in weights.items():
                prefix, dot, rest = name.partition(".")
                if dot:
                    groups.setdefault(prefix, {})[rest] = leaf
            deeper += [
                Found(_unwrapped(group), (*found.place, prefix), False, dropped) for prefix, group in groups.items()
            ]
        waiting = deeper


def _is_counter(name: str, leaf: Leaf) -> bool:
    return len(leaf.shape) < 2 and all(side == 1 for side in leaf.shape) and _COUNTERS.fullmatch(name) is not None
