"""Rows of the registry: transformer flows."""

import torch
from example import Example

from flowkit import TokenAutoregressive, TokenCoupling
from flowkit.nets import CausalViT, ViT

ROWS = [
    Example("token coupling", lambda: TokenCoupling(ViT(2, 4, 6, 1, 2, grid=(2, 1))), 2, (2,), 2),
    Example(
        "token coupling of rows",
        lambda: TokenCoupling(ViT(2, 4, 6, 1, 2, grid=(1, 2), context_channels=6), "rows", flip=True),
        2,
        (2,),
        2,
        lambda x: torch.randn(len(x), 3, *x.shape[2:]),
    ),
    Example("token autoregressive", lambda: TokenAutoregressive(CausalViT(2, 4, 6, 1, 2, grid=(2, 2))), 2, (2,)),
    Example(
        "token autoregressive backwards",
        lambda: TokenAutoregressive(
            CausalViT(2, 4, 6, 1, 2, grid=(3,), context_channels=3), flip=True, inverse="jacobi"
        ),
        2,
        (1,),
        1,
        lambda x: torch.randn(len(x), 3, *x.shape[2:]),
    ),
]
