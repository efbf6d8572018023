"""Maximum-likelihood training of a flow on rows of data: `fit`, which keeps the best weights by validation."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from flowkit.arguments import check_numbers, check_whole
from flowkit.bijector import widest
from flowkit.data_checks import check_has, check_rows, check_support
from flowkit.initialization import initialize
from flowkit.objectives import forward_kl
from flowkit.tree import Value, describe, map_leaves


@dataclass
class History:
    """Losses of a training by `flowkit.fit`, in nats a row; lower is better.

    Attributes:
        start: validation loss before the first step; of the training rows, where there are no others.
        train: mean loss of each epoch, while its steps were made.
        validation: validation loss after each epoch; empty where no rows were held out.
        best_epoch: number of epochs behind the weights that the flow has at the end; 0 for those of the start.
    """

    start: float = math.nan
    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epoch: int = 0


def fit(
    flow: nn.Module,
    x: Tensor,
    context: Value = None,
    *,
    epochs: int = 100,
    batch: int = 256,
    lr: float = 1e-3,
    validation: float | Tensor = 0.1,
    patience: int = 10,
    weights: Tensor | None = None,
    seed: int = 0,
    callback: Callable[[History], object] | None = None,
) -> History:
    """Trains a flow by maximum likelihood and leaves it with the weights that were best on held-out rows.

    `initialize` on the first training rows; Adam, whose rate falls along a cosine to 0 at the end of the last epoch;
    gradients of norm 5 at most. It runs in train mode, validation in eval mode, and every module ends in the mode that
    it had. One seed gives one result on one device; torch's global random state is as it was. Rows move to the flow's
    device batch by batch.

    Args:
        flow: a `Flow`, or any module with `log_prob(x, context)`. Parameters that need no gradient stay.
        x: data (N, ...), in the dtype of the parameters.
        context: None, or a context with N rows.
        epochs: passes over the training rows, at most.
        batch: rows a step, at most.
        lr: first learning rate.
        validation: share of the rows that is held out, in [0, 1), or the numbers of these rows: where rows belong
            together, say. 0: none is, and the last weights stay.
        patience: epochs without a better validation loss after which training ends.
        weights: None, or weights (N,) of the rows, not negative; rows of weight 0 take no part.
        seed: of the split, of the order, and of what the flow draws (dequantisation, dropout).
        callback: called with the `History` after every epoch; returning True ends training.

    Returns:
        The losses.

    Raises:
        ValueError: names rows, and columns of vectors, that have NaN or infinity, or density zero as they lie outside
            the flow's support; or options that make no sense. The flow is then as it was.
        TypeError: if the flow has no `log_prob`, or an option is of another type.
        FloatingPointError: if a loss or a gradient is not finite. The flow has the best weights until then.

    Warns:
        UserWarning: names columns of vectors that are constant, where a density grows without bound.

    Example:
        >>> import flowkit
        >>> flow = flowkit.Flow(flowkit.ActNorm(2), flowkit.StandardNormal())
        >>> x = 3 + 2 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> history = fit(flow, x, epochs=5)
        >>> len(history.train), bool(flow.log_prob(x).mean() > -4.3)
        (5, True)
    """
    check_has("fit", flow, "log_prob", "named_parameters")
    _check_options(epochs, batch, lr, validation, patience)
    check_whole("fit", -(2**63), seed=seed)
    if seed >= 2**64:
        raise ValueError(f"fit: seed must be a number of 64 bits, got {seed}")
    if callback is not None and not callable(callback):
        raise TypeError(f"fit: callback must be a function of the history, got {callback!r}")
    if not any(p.requires_grad for p in flow.parameters()):
        raise ValueError("fit: no parameter of the flow needs a gradient, so there is nothing to train")
    rows = check_rows(x, context, weights)
    shuffle = torch.Generator().manual_seed(seed)
    order = rows[torch.randperm(len(rows), generator=shuffle)]
    order, count = _held_out_first(order, validation)
    held_out, training = order[:count], order[count:]
    data, kept, history = _Data(flow, x, context, weights), _Kept(flow), History()
    modes = [(module, module.training) for module in flow.modules()]
    try:
        with _own_randomness(data.device, seed), torch.inference_mode(False), torch.enable_grad():
            if any(hasattr(layer, "statistics_input") and not layer.initialized for layer in flow.modules()):
                initialize(flow, *data.rows(training[: max(batch, 1024)])[:2])
            flow.eval()
            log_prob = data.log_prob(order, batch, seed)
            check_support(flow, x, context, order, log_prob)
            history.start = best = data.loss(order[: count or None], log_prob[: count or None])
            kept.keep()
            adam = _Adam(flow, lr, epochs * math.ceil(len(training) / batch))
            for epoch in range(1, epochs + 1):
                flow.train()
                history.train.append(
                    adam.epoch(data, training[torch.randperm(len(training), generator=shuffle)], batch)
                )
                if count:
                    flow.eval()
                    history.validation.append(data.loss(held_out, data.log_prob(held_out, batch, seed)))
                if not count or history.validation[-1] < best:
                    best, history.best_epoch = [*history.train, *history.validation][-1], epoch
                    kept.keep()
                stop = callback is not None and _is_true(callback(history))
                if stop or epoch - history.best_epoch >= patience:
                    break
    finally:
        kept.restore()
        for module, mode in modes:
            module.training = mode
    return history


def _is_true(found: Any) -> bool:
    """True, numpy's and torch's included; what a callback returns besides is no answer."""
    return found is True or (str(getattr(found, "dtype", "")) in ("bool", "torch.bool") and bool(found.all()))


class _Adam:
    """Adam on a flow's parameters, with a rate that falls along a cosine over a number of steps."""

    def __init__(self, flow: Any, lr: float, steps: int) -> None:
        self.flow = flow
        self.parameters = [p for p in flow.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(self.parameters, lr)
        self.schedule = CosineAnnealingLR(self.adam, steps)

    def epoch(self, data: "_Data", order: Tensor, batch: int) -> float:
        """Steps on all rows in their order; returns the mean loss."""
        total = 0.0
        for rows in order.tensor_split(math.ceil(len(order) / batch)):
            x, context, weights = data.rows(rows)
            loss = forward_kl(self.flow, x, weights, context)
            if weights is not None:  # a batch counts as much as its rows
                loss = loss * weights.sum() / len(rows)
            self.adam.zero_grad()
            loss.backward()
            norm, value = float(nn.utils.clip_grad_norm_(self.parameters, 5.0)), float(loss.detach())
            if not math.isfinite(value + norm):
                raise FloatingPointError(
                    f"fit: a loss of {value:.4g} with a gradient of norm {norm:.4g}; the flow has its best weights "
                    "until then; take a lower lr"
                )
            self.adam.step()
            self.schedule.step()
            total += value * len(rows) / len(order)
        return total


@dataclass
class _Data:
    """Rows of x, context and weights, whose mean over the rows that count becomes 1, on the flow's device."""

    flow: Any
    x: Tensor
    context: Value
    weights: Tensor | None
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        known = next(itertools.chain(self.flow.parameters(), self.flow.buffers()), self.x)
        self.device = known.device
        if self.weights is not None:
            weights = self.weights.to(widest(self.weights.device))
            weights = weights / weights.max()
            self.weights = (weights / weights[weights > 0].mean()).to(self.x.dtype)

    def rows(self, rows: Tensor) -> tuple[Tensor, Value, Tensor | None]:
        """Rows of x, context and weights by their numbers, on the flow's device."""

        def chosen(tensor: Tensor) -> Tensor:
            return tensor[rows.to(tensor.device)].to(self.device)

        return chosen(self.x), map_leaves(chosen, self.context), map_leaves(chosen, self.weights)

    @torch.no_grad()
    def log_prob(self, rows: Tensor, batch: int, seed: int) -> Tensor:
        """Log-densities of rows, with the same draws each time."""
        with _own_randomness(self.device, seed):
            parts = [self.flow.log_prob(*self.rows(part)[:2]) for part in rows.split(batch)]
        return torch.cat(parts).double().cpu()

    def loss(self, rows: Tensor, log_prob: Tensor) -> float:
        """Weighted mean of −log q."""
        if self.weights is None:
            return -float(log_prob.mean())
        weights = self.weights[rows.to(self.weights.device)].double().cpu()
        return -float((weights * log_prob).sum() / weights.sum())


class _Kept:
    """The best values of parameters and buffers so far."""

    def __init__(self, flow: nn.Module) -> None:
        self.flow = flow
        self.keep()

    def keep(self) -> None:
        self.values = [(held, name, tensor.detach().clone()) for held, name, tensor in self._places()]

    @torch.no_grad()
    def restore(self) -> None:
        for held, name, value in self.values:  # a module may have put another tensor in a buffer's place
            now = held.get(name)
            if now is None or now.shape != value.shape:
                held[name] = value
            else:
                now.copy_(value)

    def _places(self) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
        """Where parameters and buffers are held, and what is there now."""
        for module in self.flow.modules():
            for held in (module._parameters, module._buffers):
                yield from ((held, name, tensor) for name, tensor in held.items() if tensor is not None)


@contextmanager
def _own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Draws by a seed inside, and the generators of CPU and GPU as they were outside."""
    devices = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield


def _held_out_first(order: Tensor, validation: float | Tensor) -> tuple[Tensor, int]:
    """Rows with those that are held out in front, and how many these are."""
    if not isinstance(validation, Tensor):
        return order, min(max(1, round(len(order) * validation)), len(order) - 1) if validation else 0
    chosen = torch.isin(order, validation.cpu())
    count = int(chosen.sum())
    if count != len(validation) or count == len(order):
        raise ValueError(
            f"fit: validation must name rows that take part, each once and not all {len(order)}, got {len(validation)} "
            f"numbers for {count} of them"
        )
    return torch.cat([order[chosen], order[~chosen]]), count


def _check_options(epochs: int, batch: int, lr: float, validation: float | Tensor, patience: int) -> None:
    check_whole("fit", epochs=epochs, batch=batch)
    check_numbers("fit", "(0, inf)", lr=lr)
    check_numbers("fit", "[1, inf]", patience=patience)
    if isinstance(validation, Tensor):
        if validation.ndim != 1 or validation.is_floating_point() or validation.dtype == torch.bool:
            raise ValueError(
                f"fit: validation must be a share, or the numbers of rows (n,), got {describe(validation)}"
            )
    elif not isinstance(validation, Real):
        raise TypeError(f"fit: validation must be a share, or a tensor with the numbers of rows, got {validation!r}")
    else:
        check_numbers("fit", "[0, 1)", validation=validation)
