"""Context beside the input of a network: checked, repeated over the pixels, concatenated."""

import torch
from torch import Tensor

from flowkit.tree import describe


def with_context(passive: Tensor, context: Tensor | None, channels: int) -> Tensor:
    """concat[passive, context], where the network was made for `channels` channels of context.

    A vector (B, C) or (B, C, 1, 1) beside an image is the same at every pixel.

    Raises:
        ValueError: if it needs a context and gets none, or one of another width or size, or class labels.
    """
    if channels == 0:
        return passive
    return torch.cat([passive, fitting_context(passive, context, channels).to(passive.dtype)], 1)


def fitting_context(passive: Tensor, context: Tensor | None, channels: int) -> Tensor:
    """A context in the spatial size of the passive part: an image as it is, a vector at every pixel.

    Raises:
        ValueError: if it is missing, or of another width or size, or made of class labels.
    """
    if isinstance(context, Tensor) and not context.is_floating_point():
        raise ValueError(
            f"net: class labels {describe(context)} are no numbers to compute with: pass them as one-hot vectors, "
            "torch.nn.functional.one_hot(labels, classes).float(), or as an embedding"
        )
    if isinstance(context, Tensor):
        pixel = context.view(-1, 1) if context.ndim == 1 else context
        pixel = pixel.view(*pixel.shape, *(1 for _ in passive.shape[2:])) if pixel.ndim == 2 else pixel
        if pixel.ndim == passive.ndim and all(side == 1 for side in pixel.shape[2:]):
            context = pixel.expand(*pixel.shape[:2], *passive.shape[2:])
    if not isinstance(context, Tensor) or context.shape[1:] != (channels, *passive.shape[2:]):
        raise ValueError(
            f"net: expected a context with {channels} channels, got {describe(context)}, beside {describe(passive)}"
        )
    return context
