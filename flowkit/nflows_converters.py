"""flowkit's own maps with the weights of nflows' transforms: MAF, RealNVP, neural spline flows, and what joins them."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from nflows import flows, transforms
from nflows.distributions.normal import StandardNormal as NflowsNormal
from nflows.nn.nets import ResidualNet
from nflows.transforms.made import MADE as NflowsMADE  # noqa: N811
from torch import Tensor, nn

from flowkit.autoregressive import Autoregressive
from flowkit.bases import StandardNormal
from flowkit.chain import Chain
from flowkit.coupling import Coupling
from flowkit.flow import Flow
from flowkit.kinds import Additive, Affine, Kind
from flowkit.linear import ActNorm, InvertibleConv1x1, Permutation
from flowkit.nets import MADE, ResidualMLP
from flowkit.spline import RationalQuadratic
from flowkit.unconditional import Elementwise


def convert(theirs: nn.Module) -> Any:
    """Makes a flowkit map, or a `Flow`, with the weights of an nflows transform, or flow.

    Nothing of nflows is left in it: it saves, compiles, exports and draws as flowkit's maps do. Values and log-dets are
    those of the original in eval mode, to rounding, both ways.

    Args:
        theirs: a `Flow` on a `StandardNormal`; or a transform: composite, inverse, permutation, `LULinear`, `ActNorm`,
            `BatchNorm` (an ActNorm of its running statistics), the masked autoregressive ones that are affine or
            rational-quadratic, the couplings that are additive, affine or rational-quadratic on a `ResidualNet` of
            ReLUs. Splines need tails="linear".

    Returns:
        A copy; a flow's embedding net is the same module.

    Raises:
        TypeError: names a part that flowkit has no equal of; `from_nflows` takes it as it is.

    Example:
        >>> from nflows.transforms import MaskedAffineAutoregressiveTransform
        >>> maf = MaskedAffineAutoregressiveTransform(3, 16)
        >>> x = torch.randn(5, 3)
        >>> torch.allclose(convert(maf)(x)[0], maf(x)[0], atol=1e-5)
        True
    """
    if isinstance(theirs, flows.Flow):
        return _flow(theirs)
    for cls, converter in _CONVERTERS.items():
        if type(theirs) is cls:
            ours = converter(theirs)
            like = next((t for t in (*theirs.parameters(), *theirs.buffers()) if t.is_floating_point()), None)
            return ours if like is None else ours.to(like).train(theirs.training)
    raise _without_equal(theirs)


def _without_equal(theirs: nn.Module, why: str = "") -> TypeError:
    return TypeError(
        f"convert: flowkit has no equal of {type(theirs).__name__}{why}; from_nflows(transform) takes it as it is"
    )


def _flow(theirs: Any) -> Flow:
    base = theirs._distribution
    if type(base) is not NflowsNormal:
        raise _without_equal(base)
    embed = theirs._embedding_net
    return Flow(
        convert(theirs._transform),
        StandardNormal(),
        shape=tuple(base._shape),
        embed=None if isinstance(embed, nn.Identity) else embed,
    )


def _composite(theirs: Any) -> Chain:
    return Chain(*(convert(part) for part in theirs._transforms))


def _permutation(theirs: Any) -> Permutation:
    if theirs._dim != 1:
        raise _without_equal(theirs, f" along dimension {theirs._dim}")
    return Permutation(theirs._permutation)


def _lu(theirs: Any) -> Chain:
    """Their bias comes last: y = L U x + b."""
    lower, upper = (matrix.detach() for matrix in theirs._create_lower_upper())
    matrix = InvertibleConv1x1(len(lower), "plu", init="identity").to(lower)
    state = {"lower": lower.tril(-1), "upper": upper.triu(1), "log_diagonal": upper.diagonal().log()}
    matrix.load_state_dict({**matrix.state_dict(), **state})
    return matrix >> _shift_and_scale(theirs.bias, torch.ones_like(theirs.bias))  # type: ignore[return-value]


def _actnorm(theirs: Any) -> ActNorm:
    return _shift_and_scale(theirs.shift, theirs.log_scale.exp(), bool(theirs.initialized))


def _batch_norm(theirs: Any) -> ActNorm:
    scale = theirs.weight / (theirs.running_var + theirs.eps).sqrt()
    return _shift_and_scale(theirs.bias - scale * theirs.running_mean, scale)


def _shift_and_scale(shift: Tensor, scale: Tensor, initialized: bool = True) -> ActNorm:
    """scale·x + shift; an ActNorm shifts first."""
    layer = ActNorm(len(shift)).to(shift)
    with torch.no_grad():
        layer.bias.copy_(shift / scale)
        layer.log_scale.copy_(scale.log())
        layer.initialized.fill_(initialized)
    return layer


def _spline(theirs: Any) -> RationalQuadratic:
    if theirs.tails != "linear":
        raise _without_equal(theirs, f" with tails={theirs.tails!r}")
    bins = theirs.num_bins if hasattr(theirs, "num_bins") else theirs.unnormalized_widths.shape[-1]
    return RationalQuadratic(
        bins, theirs.tail_bound, theirs.min_bin_width, theirs.min_bin_height, min_slope=theirs.min_derivative
    )


def _spline_rows(theirs: Any, net: nn.Module, last: nn.Linear) -> None:
    """They divide widths and heights by √hidden, where the net tells its width."""
    hidden = getattr(net, "hidden_features", None)
    if hidden is not None:
        bins, each = theirs.num_bins, 3 * theirs.num_bins - 1
        with torch.no_grad():
            for parameter in (last.weight, last.bias):
                parameter.view(-1, each, *parameter.shape[1:])[:, : 2 * bins].div_(math.sqrt(hidden))


def _masked_affine(theirs: Any) -> Autoregressive:
    """Their parameters are (raw scale, shift)."""
    net = _made(theirs.autoregressive_net)
    _reorder(net.last, lambda rows: rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1))
    return Autoregressive(net, Affine("softplus", "scale_first", floor=theirs._epsilon))


def _masked_spline(theirs: Any) -> Autoregressive:
    kind = _spline(theirs)
    net = _made(theirs.autoregressive_net)
    _spline_rows(theirs, theirs.autoregressive_net, net.last)
    return Autoregressive(net, kind)


def _made(theirs: Any) -> MADE:
    first, context = theirs.initial_layer, getattr(theirs, "context_layer", None)
    features, parameters = first.in_features, theirs.final_layer.out_features // first.in_features
    _no_batch_norm(theirs)
    narrow = len(first.weight)
    net = MADE(
        features,
        parameters,
        max(narrow, features),  # wider than theirs at most by units that nothing reaches
        len(theirs.blocks),
        0 if context is None else context.in_features,
        residual=theirs.use_residual_blocks,
        activation=copy.deepcopy(theirs.activation),  # it may have weights
        dropout=theirs.blocks[0].dropout.p if len(theirs.blocks) else 0.0,
    ).to(first.weight)
    pairs: list[tuple[Any, Any]] = [(net.first, first), (net.last, theirs.final_layer)]
    if context is not None:
        pairs.append((net.context, context))
    for ours, block in zip(net.blocks, theirs.blocks, strict=True):
        if not theirs.use_residual_blocks:
            pairs.append((ours.linear, block.linear))
            continue
        pairs += zip((ours.linear1, ours.linear2), block.linear_layers, strict=True)
        if context is not None:
            pairs.append((ours.context, block.context_layer))
    for layer, source in pairs:
        _fill(layer, source)
    return net


def _fill(layer: Any, source: Any) -> None:
    """Weights, bias and mask of a layer that may be narrower; zero beyond."""
    with torch.no_grad():
        for name in ("weight", "bias", "mask"):
            if hasattr(layer, name):
                value = getattr(source, name)
                getattr(layer, name).zero_()[tuple(slice(size) for size in value.shape)] = value.to(
                    getattr(layer, name).dtype
                )


def _coupling(theirs: Any, kind: Kind) -> Chain:
    """Their mask is that of what is moved; a spline coupling may move the other half too, without a net."""
    passive = theirs.identity_features.tolist()
    if not passive or not len(theirs.transform_features):
        raise _without_equal(theirs, " whose mask moves all features, or none")
    net = _residual_net(theirs.transform_net)
    parts: list[nn.Module] = [Coupling(net, passive, kind)]
    if theirs.unconditional_transform is not None:
        parts.append(_unconditional(theirs.unconditional_transform, passive))
    return Chain(*parts)


def _affine_coupling(theirs: Any) -> Chain:
    """Their parameters are all shifts, then all raw scales."""
    chain = _coupling(theirs, Affine("sigmoid", "scale_first", offset=2.0, floor=1e-3))
    _reorder(chain[0].net.last, lambda rows: rows.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1))  # type: ignore[union-attr]
    return chain


def _additive_coupling(theirs: Any) -> Chain:
    return _coupling(theirs, Additive())


def _spline_coupling(theirs: Any) -> Chain:
    chain = _coupling(theirs, _spline(theirs))
    _spline_rows(theirs, theirs.transform_net, chain[0].net.last)  # type: ignore[union-attr, arg-type]
    return chain


def _unconditional(theirs: Any, channels: list[int]) -> Elementwise:
    if type(theirs) is not transforms.PiecewiseRationalQuadraticCDF or theirs.unnormalized_widths.ndim != 2:
        raise _without_equal(theirs)
    layer = Elementwise(_spline(theirs), channels).to(theirs.unnormalized_widths)
    rows = [theirs.unnormalized_widths, theirs.unnormalized_heights, theirs.unnormalized_derivatives]
    with torch.no_grad():
        layer.raw.copy_(torch.cat(rows, 1).flatten())
    return layer


def _residual_net(theirs: Any) -> ResidualMLP:
    if type(theirs) is not ResidualNet:
        raise _without_equal(theirs)
    _no_batch_norm(theirs)
    if any(block.activation is not F.relu for block in theirs.blocks):
        raise _without_equal(theirs, " with another activation than torch.nn.functional.relu")
    context = theirs.context_features or 0
    net = ResidualMLP(
        theirs.initial_layer.in_features - context,
        theirs.final_layer.out_features,
        theirs.hidden_features,
        len(theirs.blocks),
        theirs.blocks[0].dropout.p if len(theirs.blocks) else 0.0,
        context,
    ).to(theirs.initial_layer.weight)
    _fill(net.first, theirs.initial_layer)
    _fill(net.last, theirs.final_layer)
    for ours, block in zip(net.blocks, theirs.blocks, strict=True):
        for layer, source in zip(ours.layers, block.linear_layers, strict=True):  # type: ignore[arg-type]
            _fill(layer, source)
        if context:
            _fill(ours.gate, block.context_layer)
    return net


def _no_batch_norm(theirs: nn.Module) -> None:
    if any(isinstance(module, nn.BatchNorm1d) for module in theirs.modules()):
        raise _without_equal(theirs, " with batch norm")


def _reorder(layer: Any, order: Callable[[Tensor], Tensor]) -> None:
    """Puts the rows of a last layer, with bias and mask, in another order."""
    with torch.no_grad():
        for name in ("weight", "bias", "mask"):
            if hasattr(layer, name):
                getattr(layer, name).copy_(order(getattr(layer, name)).clone())


def _inverse(theirs: Any) -> Any:
    return convert(theirs._transform).inv


_CONVERTERS: dict[type, Callable[[Any], Any]] = {
    transforms.CompositeTransform: _composite,
    transforms.InverseTransform: _inverse,
    transforms.IdentityTransform: lambda theirs: Chain(),
    transforms.Permutation: _permutation,
    transforms.RandomPermutation: _permutation,
    transforms.ReversePermutation: _permutation,
    transforms.LULinear: _lu,
    transforms.ActNorm: _actnorm,
    transforms.BatchNorm: _batch_norm,
    transforms.MaskedAffineAutoregressiveTransform: _masked_affine,
    transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform: _masked_spline,
    transforms.AffineCouplingTransform: _affine_coupling,
    transforms.AdditiveCouplingTransform: _additive_coupling,
    transforms.PiecewiseRationalQuadraticCouplingTransform: _spline_coupling,
    NflowsMADE: _made,
    ResidualNet: _residual_net,
}
