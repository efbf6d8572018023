"""More broken bijectors for the checker: state between calls, gradients that are cut, arguments written into."""

import pytest
import torch
from torch import nn

from flowkit import ActNorm, Bijector
from flowkit.testing import check_bijector

X = torch.randn(3, 2, 2, 2)
C = torch.randn(3, 2, 2, 2)


class Scale(Bijector):
    """y = x·exp(s + c), a good one to break."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.full((2,), 0.3))

    def log_scale(self, x, context):
        return self.s.view(2, 1, 1).expand_as(x) + (0 if context is None else context.tanh())

    def forward(self, x, context=None):
        g = self.log_scale(x, context)
        return x * g.exp(), g.flatten(1).sum(1)

    def inverse(self, y, context=None):
        g = self.log_scale(y, context)
        return y * (-g).exp(), -g.flatten(1).sum(1)


class StoresContext(Scale):
    def forward(self, x, context=None):
        self.kept = context
        return super().forward(x, context)

    def inverse(self, y, context=None):
        return super().inverse(y, self.kept)


class InitialisesItself(Scale):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("done", torch.tensor(False))

    def forward(self, x, context=None):
        if not self.done:
            with torch.no_grad():
                self.s.copy_(-x.transpose(0, 1).flatten(1).std(1).log())
                self.done.fill_(True)
        return super().forward(x, context)


class DetachedLogdet(Scale):
    def forward(self, x, context=None):
        y, logdet = super().forward(x, context)
        return y, logdet.detach()

    def inverse(self, y, context=None):
        x, logdet = super().inverse(y, context)
        return x, logdet.detach()


class DetachedParameters(Scale):
    def log_scale(self, x, context):
        return super().log_scale(x, context).detach()


class ClampsItsArgument(Scale):
    def forward(self, x, context=None):
        with torch.no_grad():
            x.clamp_(-1, 1)
        return super().forward(x, context)


class RaisesOnlySometimes(Scale):
    def inverse(self, y, context=None):
        if len(y) == 1:
            raise RuntimeError("one is not enough")
        return super().inverse(y, context)


def test_the_unbroken_one_passes() -> None:
    check_bijector(Scale(), X, C, sizes=[(3, 4)])
    check_bijector(Scale(), X)
    with torch.no_grad():
        check_bijector(Scale(), X, C)


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (StoresContext, "no memory"),
        (InitialisesItself, "no state of its own"),
        (DetachedLogdet, "gradients"),
        (DetachedParameters, "gradients"),
        (ClampsItsArgument, "no in-place writes"),
        (RaisesOnlySometimes, "raised RuntimeError: one is not enough"),
    ],
)
def test_the_checker_names_the_law(broken, law) -> None:
    with pytest.raises(AssertionError, match=law):
        check_bijector(broken(), 2 * X, C)


def test_an_explicitly_initialised_layer_is_fine() -> None:
    check_bijector(ActNorm(2), X)
