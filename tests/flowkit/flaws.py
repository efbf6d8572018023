"""y = eᵃ·x, per channel and with a context, and bijectors that are it but for one flaw each: what the checker sees."""

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit.bijector import TensorMap
from flowkit.tree import repeat_rows


class Scale(TensorMap):
    """y = e^(a + tanh c)·x, right in every respect."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.3, -0.2]))

    def log_scale(self, x: Tensor, context: Any) -> Tensor:
        a = self.a.view(-1, *(1 for _ in x.shape[2:])).expand_as(x)
        return a if context is None else a + repeat_rows(context, x.shape[0]).tanh()

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        g = self.log_scale(x, context)
        return x * g.exp(), self.logdet(g, x)

    def inverse(self, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        g = self.log_scale(y, context)
        x = y * (-g).exp()
        return x, -self.logdet(g, x)

    def logdet(self, g: Tensor, x: Tensor) -> Tensor:
        return g.flatten(1).sum(1)


class FarLogdet(Scale):
    def logdet(self, g, x):
        return super().logdet(g + 0.5 * (x.abs() > 4), x)


class FarInverse(Scale):
    def inverse(self, y, context=None):
        x, logdet = super().inverse(y, context)
        return x + (y.abs() > 5), logdet


class FarGradient(Scale):
    def forward(self, x, context=None):
        return super().forward(torch.where(x.abs() > 3.5, x.detach(), x), context)


class Folds(Scale):
    """Beyond ±3 it goes back: slope −1 there, so the log-det is right."""

    def forward(self, x, context=None):
        inside = torch.where(x.abs() <= 3, x, 6 * x.sign() - x)
        return super().forward(inside, context)


class NotOnto(Scale):
    def forward(self, x, context=None):
        y, logdet = super().forward(5 * (x / 5).tanh(), context)
        return y, logdet + (1 - (x / 5).tanh() ** 2).log().flatten(1).sum(1)

    def inverse(self, y, context=None):
        t, logdet = super().inverse(y, context)
        x = 5 * (t / 5).clamp(-1 + 1e-12, 1 - 1e-12).atanh()
        return x, logdet - (1 - (x / 5).tanh() ** 2).log().flatten(1).sum(1)


class EvalLogdet(Scale):
    def logdet(self, g, x):
        return super().logdet(g, x) + (0 if self.training else 0.1)


class TrainLogdet(Scale):
    def logdet(self, g, x):
        return super().logdet(g, x) + (0.1 if self.training else 0)


class FarEvalLogdet(Scale):
    def logdet(self, g, x):
        return super().logdet(g + (0 if self.training else 0.5) * (x.abs() > 4), x)


class TrainDropout(Scale):
    def log_scale(self, x, context):
        return F.dropout(super().log_scale(x, context), 0.3, self.training)


class NoGradLogdet(Scale):
    def logdet(self, g, x):
        return super().logdet(g, x) + (0 if torch.is_grad_enabled() else 0.1)


class GradModeValue(Scale):
    def log_scale(self, x, context):
        return super().log_scale(x, context) * (1.1 if torch.is_grad_enabled() else 1)


class WantsGradient(Scale):
    def log_scale(self, x, context):
        return super().log_scale(x, context) * (1.1 if x.requires_grad else 1)


class BigBatch(Scale):
    def logdet(self, g, x):
        return super().logdet(g, x) + (0.1 if x.shape[0] > 8 else 0)


class WrongOrderOfDraws(Scale):
    def log_scale(self, x, context):
        if context is not None:
            context = context.repeat_interleave(x.shape[0] // context.shape[0], 0)
        return super().log_scale(x, context)


class FirstContextForAll(Scale):
    def log_scale(self, x, context):
        return super().log_scale(x, None if context is None else context[:1])


class NonContiguous(Scale):
    def log_scale(self, x, context):
        return super().log_scale(x, context) * (1 if x.is_contiguous() else 1.1)


class ChannelsLast(Scale):
    def logdet(self, g, x):
        last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        return super().logdet(g, x) + (0.1 if last else 0)


class HalfLogdet(Scale):
    def logdet(self, g, x):
        return super().logdet(g.half() if g.dtype == torch.float32 else g, x).to(x.dtype)


class BfloatInside(Scale):
    def forward(self, x, context=None):
        y, logdet = super().forward(x, context)
        return y.bfloat16().to(x.dtype), logdet


class FloatInside(Scale):
    def forward(self, x, context=None):
        y, logdet = super().forward(x, context)
        return y.float().to(x.dtype), logdet


class ForgottenBuffer(Scale):
    """Its factor is a buffer that no state dict carries."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(0.7), persistent=False)

    def log_scale(self, x, context):
        return super().log_scale(x, context) * self.factor


class NotConstant(Scale):
    """sinh, which states a constant log-det."""

    constant_logdet = True

    def forward(self, x, context=None):
        y, logdet = super().forward(x.sinh(), context)
        return y, logdet + x.cosh().log().flatten(1).sum(1)

    def inverse(self, y, context=None):
        x, logdet = super().inverse(y, context)
        return x.asinh(), logdet - x.asinh().cosh().log().flatten(1).sum(1)


class LiesOfShrinking(Scale):
    shrink = 2


class LiesOfInputChannels(Scale):
    in_channels = 3


class LiesOfOutputChannels(Scale):
    out_channels = 3


class LiesOfItsCodomain(Scale):
    codomain = torch.distributions.constraints.positive


class Reseeds(Scale):
    def forward(self, x, context=None):
        torch.manual_seed(0)
        return super().forward(x, context)


class Forks(Scale):
    """Draws, and puts the process's stream back: other threads' draws come twice."""

    def forward(self, x, context=None):
        with torch.random.fork_rng():
            torch.rand(2)
        return super().forward(x, context)


class ReseedsPython(Scale):
    def inverse(self, y, context=None):
        random.seed(0)
        return super().inverse(y, context)


class CutCurvature(Scale):
    """The first derivative is right, the second is not: the slope is a constant to it."""

    def forward(self, x, context=None):
        return _FlatSinh.apply(super().forward(x, context)[0]), self._logdet(x, context)

    def inverse(self, y, context=None):
        x, _ = super().inverse(y.asinh(), context)
        return x, -self._logdet(x, context)

    def _logdet(self, x, context):
        y, logdet = super().forward(x, context)
        return logdet + y.cosh().log().flatten(1).sum(1)


class _FlatSinh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sinh()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].detach().cosh()


class Hutchinson(Scale):
    def logdet(self, g, x):
        probe = torch.randn_like(g).sign() * torch.rand_like(g).add(0.5)
        return (g * probe**2).flatten(1).sum(1)


class SeededNoise(Scale):
    def forward(self, x, context=None):
        y, logdet = super().forward(x, context)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        return y + 0.1 * noise, logdet


class BatchStatistics(Scale):
    def log_scale(self, x, context):
        return super().log_scale(x, context) + x.detach().mean() * 0 + 0.1 * x.shape[0]


class Normalises(Scale):
    """A network with batch statistics steers it: BatchNorm, which is another one in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def log_scale(self, x, context):
        g = super().log_scale(x, context)
        means = torch.linspace(0, 1, 2 * x.shape[0], dtype=x.dtype).view(-1, 2)
        return g + 0.1 * self.norm(means).view(x.shape[0], 2, *(1 for _ in x.shape[2:]))


class SquareImages(Scale):
    def logdet(self, g, x):
        return g.sum((1, 2, 3)) * (x.shape[2] / x.shape[3] if x.ndim == 4 else 1)


class OddSizes(Scale):
    def logdet(self, g, x):
        return (g[..., : g.shape[-1] // 2 * 2]).flatten(1).sum(1)


class OneRow(Scale):
    def logdet(self, g, x):
        return super().logdet(g, x) + (0.1 if x.shape[0] == 1 else 0)


class CutParameter(Scale):
    def log_scale(self, x, context):
        return (
            super().log_scale(x, context)
            - self.a.view(-1, *(1 for _ in x.shape[2:]))
            + self.a.detach().view(-1, *(1 for _ in x.shape[2:]))
        )


class CutContext(Scale):
    def log_scale(self, x, context):
        return super().log_scale(x, None if context is None else context.detach())


class StaleScale(Scale):
    cache = None

    def log_scale(self, x, context):
        if self.cache is None or self.cache.shape != x.shape or self.cache.dtype != x.dtype:
            self.cache = super().log_scale(x, context).detach()
        return self.cache


class StaleContext(Scale):
    cache = None

    def forward(self, x, context=None):
        self.cache = context
        return super().forward(x, context)

    def inverse(self, y, context=None):
        return super().inverse(y, self.cache)


class StaleLogdet(Scale):
    cache = None

    def logdet(self, g, x):
        if self.cache is None or self.cache.shape[0] != x.shape[0]:
            self.cache = super().logdet(g, x)
        return self.cache


class RemembersX(Scale):
    """The inverse gives back the x that went in (as caches of transform libraries do), and is wrong otherwise."""

    last: Any = None

    def forward(self, x, context=None):
        y, logdet = super().forward(x, context)
        self.last = x.clone(), y.detach().clone()
        return y, logdet

    def inverse(self, y, context=None):
        x, logdet = super().inverse(y, context)
        if self.last is not None and torch.equal(self.last[1], y):
            return self.last[0], logdet
        return 1.1 * x, logdet


class WrongAtZero(Scale):
    """Zeros are what padding and ReLU make."""

    def forward(self, x, context=None):
        y, logdet = super().forward(x, context)
        return torch.where(x == 0, y + 1, y), logdet


class CountsCalls(Scale):
    """In a buffer that no state dict carries."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x, context=None):
        self.calls += 1
        return super().forward(x, context)


class InferenceMode(Scale):
    def log_scale(self, x, context):
        return super().log_scale(x, context) * (1.1 if torch.is_inference_mode_enabled() else 1)


class Pole(Scale):
    """Not onto: its inverse has a pole at |y| = 6."""

    def forward(self, x, context=None):
        y, logdet = super().forward(x, context)
        return y / (1 + y**2 / 36).sqrt(), logdet - 1.5 * (1 + y**2 / 36).log().flatten(1).sum(1)

    def inverse(self, y, context=None):
        t = y / (1 - y**2 / 36).sqrt()
        x, logdet = super().inverse(t, context)
        return x, logdet + 1.5 * (1 + t**2 / 36).log().flatten(1).sum(1)


class PlainAttribute(Scale):
    """Not looked at: state that is no buffer looks like a hyperparameter."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 0.7

    def log_scale(self, x, context):
        return super().log_scale(x, context) * self.factor


FLAWS: dict[type[Scale], str] = {
    FarLogdet: "log-det .*at 3 times x",
    FarInverse: "round trip .*at 3 times x",
    FarGradient: "at 3 times x",
    Folds: "round trip",
    NotOnto: "onto",
    EvalLogdet: "log-det",
    TrainLogdet: "log-det",
    FarEvalLogdet: "log-det .*at 3 times x",
    TrainDropout: "same call, same result",
    NoGradLogdet: "grad mode",
    GradModeValue: "grad mode|gradients",
    WantsGradient: "grad mode|round trip",
    BigBatch: "per-sample independence",
    WrongOrderOfDraws: "shared context",
    FirstContextForAll: "per-sample independence",
    NonContiguous: "layout",
    ChannelsLast: "layout",
    HalfLogdet: "log-det in float32",
    BfloatInside: "round trip|log-det",
    FloatInside: "round trip|gradients",
    ForgottenBuffer: "state dict",
    NotConstant: "stated facts .*constant_logdet",
    LiesOfShrinking: "stated facts: shrink",
    LiesOfInputChannels: "protocol: forward raised ValueError: .* expected 3 channels",
    LiesOfOutputChannels: "protocol: inverse raised ValueError: .* expected 3 channels",
    LiesOfItsCodomain: "codomain",
    Reseeds: "random state",
    ReseedsPython: "random state",
    Forks: "random state",
    CutCurvature: "second derivatives",
    Hutchinson: "same call, same result",
    SeededNoise: "round trip|per-sample",
    BatchStatistics: "per-sample independence",
    Normalises: "no state of its own|per-sample independence",
    SquareImages: "log-det .*other image size",
    OddSizes: "log-det .*other image size",
    OneRow: "per-sample independence|log-det",
    CutParameter: "gradients",
    CutContext: "gradients",
    StaleScale: "memory|log-det|gradients|per-sample",
    StaleContext: "no memory",
    StaleLogdet: "memory|log-det|per-sample",
    RemembersX: "round trip|memory",
    WrongAtZero: "round trip .*at 0 times x",
    CountsCalls: "no state of its own",
    InferenceMode: "grad mode .*inference_mode",
    Pole: "onto",
}
"""Each flaw, and the law that names it."""
