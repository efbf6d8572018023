"""The larger networks: start, contexts, sizes, precision, and that a pixel sees what it should."""

import re

import pytest
import torch
from torch import nn

from flowkit import Affine, Coupling
from flowkit.nets import ConvResNet, ResidualMLP, UNet, ViT
from flowkit.testing import perturb

MAKE = {
    "ResidualMLP": lambda i, o, c=0: ResidualMLP(i, o, 16, context_features=c),
    "ConvResNet": lambda i, o, c=0: ConvResNet(i, o, 8, context_channels=c),
    "UNet": lambda i, o, c=0: UNet(i, o, 4, context_channels=c),
    "ViT": lambda i, o, c=0: ViT(i, o, 8, 2, 2, context_channels=c),
    "ViT of patches": lambda i, o, c=0: ViT(i, o, 8, 2, 2, patch=2, grid=(3, 2), context_channels=c),
    "ViT of sequences": lambda i, o, c=0: ViT(i, o, 8, 2, 2, grid=(5,), context_channels=c),
}
SPATIAL = {"ResidualMLP": (), "ViT of sequences": (6,)}
each = pytest.mark.parametrize("name", MAKE)


def some(name, rows=3, channels=2):
    return torch.randn(rows, channels, *SPATIAL.get(name, (4, 6)))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@each
def test_a_coupling_starts_as_the_identity_and_leaves_it(name) -> None:
    net = MAKE[name](2, 4)
    x = some(name, channels=4)
    y, logdet = Coupling(net, 2, Affine("tanh"))(x)
    torch.testing.assert_close(y, x)
    (y.square().sum() - logdet.sum()).backward()
    assert float(net.last.weight.grad.abs().sum()) > 0


@each
def test_contexts_are_seen_required_and_may_be_vectors(name) -> None:
    net = perturb(MAKE[name](2, 4, 3))
    passive, context = some(name), some(name, channels=3)
    assert net(passive, context).shape == (3, 4, *passive.shape[2:])
    assert not torch.allclose(net(passive, context), net(passive, context + 1))
    with pytest.raises(ValueError, match=r"expected a context with 3 channels.*, got None"):
        net(passive)
    vector = torch.randn(3, 3)
    everywhere = vector.view(3, 3, *(1 for _ in passive.shape[2:])).expand(3, 3, *passive.shape[2:])
    torch.testing.assert_close(net(passive, vector), net(passive, everywhere))


@each
def test_without_context_channels_it_is_ignored_and_rows_are_independent(name) -> None:
    net = perturb(MAKE[name](2, 4))
    passive = some(name)
    assert torch.equal(net(passive, torch.randn(3, 9)), net(passive))
    torch.testing.assert_close(net(passive)[1:], net(passive[1:]))
    assert net(passive[:0]).shape == (0, 4, *passive.shape[2:])


@pytest.mark.parametrize("name", ["UNet", "ConvResNet", "ViT"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 3), (8, 8), (9, 7)])
def test_any_size(name, size) -> None:
    net = perturb(MAKE[name](2, 4, 1))
    assert net(torch.randn(2, 2, *size), torch.randn(2, 1, *size)).shape == (2, 4, *size)


def seen(net, size=(8, 8)):
    """The share of input pixels on which the corner of the output depends."""
    x = torch.randn(1, 1, *size, requires_grad=True)
    (grad,) = torch.autograd.grad(perturb(net)(x)[0, :, 0, 0].sum(), x)
    return float((grad != 0).double().mean())


def test_how_far_a_pixel_sees() -> None:
    assert seen(UNet(1, 2, 4, depth=3)) == 1
    assert seen(ViT(1, 2, 8, 1, 2)) == 1
    assert seen(ConvResNet(1, 2, 8, blocks=1), (9, 9)) == pytest.approx(16 / 81)  # three 3×3 convolutions


def test_patches_are_in_their_places() -> None:
    """Without attention, and with a last layer that undoes the first, tokens come back as the image."""
    net = ViT(3, 3, 12, depth=0, heads=1, patch=2, grid=(2, 3))
    net.norm = nn.Identity()
    with torch.no_grad():
        net.positions.zero_()
        for layer in (net.first, net.last):
            layer.weight.copy_(torch.eye(12))
            layer.bias.zero_()
    x = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(net(x), x)
    net.first.register_forward_pre_hook(lambda layer, args: tokens.append(args[0]))
    tokens = []
    net(x)
    torch.testing.assert_close(tokens[0][0, 4], x[0, :, 2:4, 2:4].flatten())


def test_positions_are_interpolated() -> None:
    net = ViT(1, 1, 8, 1, 2, grid=(4, 4))
    assert float(net.positions.detach().std()) == pytest.approx(8**-0.5, rel=0.2)
    torch.testing.assert_close(net._positions_on([4, 4])[0, 5], net.positions[0, :, 1, 1])
    assert net._positions_on([8, 2]).shape == (1, 16, 8)


def test_dropout_and_blocks() -> None:
    net = perturb(ResidualMLP(2, 4, 16, blocks=3, dropout=0.5))
    assert len(net.blocks) == 3
    x = torch.randn(4, 2)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    fresh = ResidualMLP(2, 4, 16)
    assert float(fresh.blocks[0].layers[1].weight.detach().abs().max()) <= 1e-3
    assert float(fresh.blocks[0].layers[0].weight.detach().abs().max()) > 1e-2


@pytest.mark.parametrize("name", ["ConvResNet", "UNet", "ViT"])
def test_parameters_are_in_full_precision_under_autocast(name) -> None:
    net = perturb(MAKE[name](2, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert net(some(name)).dtype == torch.float32


def test_what_a_vit_does_not_take() -> None:
    with pytest.raises(ValueError, match=r"heads must divide hidden.*got 3 heads of 8"):
        ViT(1, 1, 8, heads=3)
    with pytest.raises(ValueError, match=r"expected 2 spatial sizes, multiples of 2, got \(1, 1, 3, 4\)"):
        ViT(1, 1, 8, patch=2)(torch.zeros(1, 1, 3, 4))
    with pytest.raises(ValueError, match=r"expected 2 spatial sizes, multiples of 1, got \(1, 1\)"):
        ViT(1, 1, 8)(torch.zeros(1, 1))


def test_the_residual_mlp_is_nflows_network() -> None:
    """The same numbers from the same weights: initial layer, gated blocks, final layer."""
    nflows = pytest.importorskip("nflows.nn.nets", reason="an extra: pip install flowkit-torch[nflows]")
    theirs = nflows.ResidualNet(3, 5, 16, context_features=2, num_blocks=2)
    net = ResidualMLP(3, 5, 16, context_features=2)
    words = {"initial_layer": "first", "final_layer": "last", "linear_layers": "layers", "context_layer": "gate"}
    state = {re.sub("|".join(words), lambda m: words[m[0]], name): v for name, v in theirs.state_dict().items()}
    net.load_state_dict(state)
    x, context = torch.randn(4, 3), torch.randn(4, 2)
    torch.testing.assert_close(net(x, context), theirs(x, context))
