"""Training batches and random numbers, both pure functions of a sample's number: nothing to save, nothing to lose."""

import hashlib
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from flowkit_models.images.convert import to_float


class Samples(Protocol):
    """Training data: `samples[i]` is (hr, lr) of sample number i, for every i ≥ 0, the same each time.

    hr is (3, H, W) and lr (3, h, w), floats in [0, 1] or uint8, of one size for all i.
    """

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        """Sample `index`: (hr, lr)."""


class Batch(NamedTuple):
    """A batch of samples.

    Attributes:
        hr: (B, 3, H, W), in [0, 1].
        lr: (B, 3, h, w), in [0, 1].
        index: (B,) int64, the number of each sample in the run, from 0; stays on the CPU.
    """

    hr: Tensor
    lr: Tensor
    index: Tensor  # type: ignore[assignment]  # tuples have a method of that name

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device, 8-bit images as floats."""
        images = (x.to(device, non_blocking=True) for x in (self.hr, self.lr))
        hr, lr = (to_float(x) if x.dtype == torch.uint8 else x for x in images)
        return Batch(hr, lr, self.index)

    def split(self, parts: int) -> list["Batch"]:
        """The batch in equal parts, in order."""
        return [Batch(*part) for part in zip(*(x.chunk(parts) for x in self), strict=True)]


class Draws:
    """Random numbers that depend on (seed, number of the sample, name) alone.

    So noise is the same however samples are spread over processes, workers and accumulation, a resumed run goes on
    with the same numbers, and asking twice for a name gives the same numbers twice. They are made on the CPU by
    numpy's Philox generator, whose key is (seed and name, sample): streams never overlap.

    Args:
        seed: of the run.
        index: (B,), numbers of the samples.
        device: where the numbers go.

    Example:
        >>> both = Draws(0, torch.tensor([3, 4])).normal("z", (2,))
        >>> torch.equal(both[1:], Draws(0, torch.tensor([4])).normal("z", (2,)))
        True
    """

    def __init__(self, seed: int, index: Tensor, device: torch.device | str = "cpu") -> None:
        self.seed, self.index, self.device = seed, index.tolist(), device

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        """(B, *shape), float32, uniform in [0, 1)."""
        return self._fill("uniform", name, shape, lambda generator, out: generator.random(out=out, dtype=np.float32))

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """(B, *shape), float32, standard normal."""
        return self._fill(
            "normal", name, shape, lambda generator, out: generator.standard_normal(out=out, dtype=np.float32)
        )

    def _fill(
        self, kind: str, name: str, shape: Sequence[int], fill: Callable[[np.random.Generator, Any], Any]
    ) -> Tensor:
        numbers = np.empty((len(self.index), *shape), np.float32)
        word = key(self.seed, kind, name)
        for index, row in zip(self.index, numbers.reshape(len(self.index), -1), strict=True):
            fill(np.random.Generator(np.random.Philox(key=np.array([word, index], np.uint64))), row)
        return torch.from_numpy(numbers).to(self.device)


def key(*parts: int | str) -> int:
    """A 64-bit number that stands for some words, the same on every machine."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def load_batches(
    samples: Samples,
    batch: int,
    steps: Iterable[int],
    rank: int = 0,
    processes: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Generator[Batch, None, None]:
    """This process's part of the batch of each step, on the CPU.

    The samples of step t, counted from 1, are (t − 1)·batch … t·batch − 1, and each process takes its share in order:
    the step is the whole position in the data.

    Args:
        samples: the data.
        batch: samples per step, over all processes.
        steps: which steps, such as range(first, last + 1).
        rank: this process.
        processes: how many there are.
        workers: processes that read ahead. They ignore Ctrl-C and SIGTERM, so that this process can finish its step,
            and end when the batches do: `close` them where you stop before.
        pin_memory: for copies to a GPU that don't wait.

    Raises:
        ValueError: if the batch can't be shared equally.
    """
    if batch < 1 or batch % processes:
        raise ValueError(f"batch {batch} can't be shared equally by {processes} processes; make it a multiple")
    share = batch // processes
    starts = ((step - 1) * batch + rank * share for step in steps)
    dataset: Any = _Numbered(samples)
    batches = iter(
        DataLoader(
            dataset,
            batch_sampler=_Once(list(range(start, start + share)) for start in starts),
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_leave_signals_to_the_parent,
            pin_memory=pin_memory,
        )
    )
    return _until_closed(batches)


def _until_closed(batches: Iterator[Batch]) -> Generator[Batch, None, None]:
    """Holds the only reference to the workers, so that `close` ends them, whatever else remembers the loop."""
    yield from batches


class _Numbered:
    """Samples with their numbers."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        hr, lr = self.samples[index]
        return hr, lr, index


class _Once:
    """An iterator of lists of numbers, as `DataLoader` wants it."""

    def __init__(self, lists: Iterable[list[int]]) -> None:
        self.lists = lists

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.lists)


def _collate(items: list[tuple[Tensor, Tensor, int]]) -> Batch:
    hr, lr, index = zip(*items, strict=True)
    return Batch(torch.stack(hr), torch.stack(lr), torch.tensor(index))


def _leave_signals_to_the_parent(worker: int) -> None:
    """The training process finishes its step and then ends the workers: they must not die before it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
