"""Parametrisations of an invertible matrix: each says W, its inverse and log|det W| from parameters of its own.

Parameters stacked in front, (n, …), give n matrices in the same few calls.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Named = Callable[[str], Tensor]
"""Parameters and buffers of a matrix, or of n matrices stacked, by name, all of one dtype."""


class Start(NamedTuple):
    """Parameters and buffers of a new matrix, by name."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]


class Form(ABC):
    """A way to write W. It owns nothing: `at` gives what `start` made."""

    rotates: bool = True
    """Whether it can start at a random rotation."""

    @abstractmethod
    def start(self, channels: int, identity: bool) -> Start:
        """Makes the parameters of the identity, or of a random rotation."""

    @abstractmethod
    def product(self, at: Named) -> Tensor:
        """W, (…, C, C)."""

    @abstractmethod
    def inverse(self, at: Named) -> Tensor:
        """W⁻¹, (…, C, C)."""

    @abstractmethod
    def log_slope(self, at: Named) -> Tensor:
        """log|det W|, (…)."""


class Dense(Form):
    """One free matrix, as in the published models."""

    def start(self, channels: int, identity: bool) -> Start:
        """The matrix itself."""
        return Start({"weight": _rotation(channels, identity)}, {})

    def product(self, at: Named) -> Tensor:
        """The weight."""
        return at("weight")

    def inverse(self, at: Named) -> Tensor:
        """Solved by LU."""
        return torch.linalg.inv(at("weight"))

    def log_slope(self, at: Named) -> Tensor:
        """From a determinant."""
        return torch.linalg.slogdet(at("weight")).logabsdet


class PLU(Form):
    """W = P L (U + diag(s·eᵈ)), P and the signs s fixed (Glow, eq. 10)."""

    def start(self, channels: int, identity: bool) -> Start:
        """The factors of the matrix."""
        permutation, lower, upper = torch.linalg.lu(_rotation(channels, identity))
        diagonal = upper.diagonal()
        parameters = {"lower": lower.tril(-1), "upper": upper.triu(1), "log_diagonal": diagonal.abs().log()}
        return Start(parameters, {"permutation": permutation, "sign": diagonal.sign()})

    def product(self, at: Named) -> Tensor:
        """The factors, multiplied."""
        return at("permutation") @ _lower(at) @ self._upper(at)

    def inverse(self, at: Named) -> Tensor:
        """By two triangular solves."""
        half = torch.linalg.solve_triangular(_lower(at), at("permutation").mT, upper=False)
        return torch.linalg.solve_triangular(self._upper(at), half, upper=True)

    def log_slope(self, at: Named) -> Tensor:
        """The sum of d."""
        return at("log_diagonal").sum(-1)

    def _upper(self, at: Named) -> Tensor:
        return at("upper").triu(1) + (at("sign") * at("log_diagonal").exp()).diag_embed()


class LU(Form):
    """W = L (U + diag(eᵈ)), from the identity."""

    rotates = False

    def start(self, channels: int, identity: bool) -> Start:
        """Zeros."""
        zeros = torch.zeros(channels, channels)
        return Start({"lower": zeros, "upper": zeros.clone(), "log_diagonal": torch.zeros(channels)}, {})

    def product(self, at: Named) -> Tensor:
        """Both factors, multiplied."""
        return _lower(at) @ _upper(at)

    def inverse(self, at: Named) -> Tensor:
        """By two triangular solves."""
        lower = _lower(at)
        half = torch.linalg.solve_triangular(lower, _eye(lower), upper=False)
        return torch.linalg.solve_triangular(_upper(at), half, upper=True)

    def log_slope(self, at: Named) -> Tensor:
        """The sum of d."""
        return at("log_diagonal").sum(-1)


class Householder(Form):
    """A rotation, the product of C or C + 1 reflections I − 2vvᵀ/|v|², an even number (Tomczak and Welling, 2016)."""

    def start(self, channels: int, identity: bool) -> Start:
        """Vectors in pairs of equal ones for the identity."""
        return Start({"vectors": _vectors(channels, identity)}, {})

    def product(self, at: Named) -> Tensor:
        """The reflections, multiplied."""
        return reflections(at("vectors"))

    def inverse(self, at: Named) -> Tensor:
        """The transpose."""
        return self.product(at).mT

    def log_slope(self, at: Named) -> Tensor:
        """Nothing."""
        return at("vectors").new_zeros(at("vectors").shape[:-2])


class QR(Form):
    """W = Q (U + diag(eᵈ)), Q by reflections (Hoogeboom et al., 2019)."""

    def start(self, channels: int, identity: bool) -> Start:
        """A rotation and zeros."""
        zeros = torch.zeros(channels, channels)
        vectors = _vectors(channels, identity)
        return Start({"vectors": vectors, "upper": zeros, "log_diagonal": torch.zeros(channels)}, {})

    def product(self, at: Named) -> Tensor:
        """Both factors, multiplied."""
        return reflections(at("vectors")) @ _upper(at)

    def inverse(self, at: Named) -> Tensor:
        """By one triangular solve."""
        return torch.linalg.solve_triangular(_upper(at), reflections(at("vectors")).mT, upper=True)

    def log_slope(self, at: Named) -> Tensor:
        """The sum of d."""
        return at("log_diagonal").sum(-1)


class SVD(Form):
    """W = U diag(eᵈ) V, two rotations by reflections: the singular values are parameters, and can be bounded."""

    def start(self, channels: int, identity: bool) -> Start:
        """Two rotations and zeros."""
        left, right = _vectors(channels, identity), _vectors(channels, identity)
        return Start({"left": left, "right": right, "log_diagonal": torch.zeros(channels)}, {})

    def product(self, at: Named) -> Tensor:
        """The factors, multiplied."""
        return reflections(at("left")) * at("log_diagonal").exp()[..., None, :] @ reflections(at("right"))

    def inverse(self, at: Named) -> Tensor:
        """The transposed rotations, in the other order."""
        scale = (-at("log_diagonal")).exp()[..., None, :]
        return reflections(at("right")).mT * scale @ reflections(at("left")).mT

    def log_slope(self, at: Named) -> Tensor:
        """The sum of d."""
        return at("log_diagonal").sum(-1)


class Exponential(Form):
    """W = e^A: never singular; its log-det is tr A, its inverse e^−A, so it needs no determinant and no solve."""

    def start(self, channels: int, identity: bool) -> Start:
        """Zeros, or a skew matrix."""
        return Start({"weight": _skew(torch.zeros(channels, channels) if identity else _drawn(channels))}, {})

    def product(self, at: Named) -> Tensor:
        """The exponential."""
        return torch.linalg.matrix_exp(at("weight"))

    def inverse(self, at: Named) -> Tensor:
        """That of −A."""
        return torch.linalg.matrix_exp(-at("weight"))

    def log_slope(self, at: Named) -> Tensor:
        """The trace."""
        return diagonal(at("weight")).sum(-1)


class Cayley(Form):
    """A rotation W = (I − A)(I + A)⁻¹, A the skew part of a free matrix: one solve, and no parameter is forbidden."""

    def start(self, channels: int, identity: bool) -> Start:
        """Zeros, or a matrix of random numbers."""
        return Start({"weight": torch.zeros(channels, channels) if identity else _drawn(channels)}, {})

    def product(self, at: Named) -> Tensor:
        """Both factors commute: I + A is solved."""
        skew = _skew(at("weight"))
        eye = _eye(skew)
        return torch.linalg.solve(eye + skew, eye - skew)

    def inverse(self, at: Named) -> Tensor:
        """The transpose."""
        return self.product(at).mT

    def log_slope(self, at: Named) -> Tensor:
        """Nothing."""
        return at("weight").new_zeros(at("weight").shape[:-2])


FORMS: dict[str, Form] = {
    "dense": Dense(),
    "plu": PLU(),
    "lu": LU(),
    "householder": Householder(),
    "qr": QR(),
    "svd": SVD(),
    "expm": Exponential(),
    "cayley": Cayley(),
}


def _rotation(channels: int, identity: bool) -> Tensor:
    return torch.eye(channels) if identity else torch.linalg.qr(torch.randn(channels, channels))[0].contiguous()


def _drawn(channels: int) -> Tensor:
    return torch.randn(channels, channels)


def _vectors(channels: int, identity: bool) -> Tensor:
    """Reflections, an even number of them: rotations can be reached from one another, so all are."""
    count = channels + channels % 2
    return torch.randn(count // 2, channels).repeat_interleave(2, 0) if identity else torch.randn(count, channels)


def reflections(vectors: Tensor) -> Tensor:
    """Their product from left to right, I − V S⁻¹ Vᵀ, S the upper triangle of VᵀV with half its diagonal."""
    units = vectors / vectors.norm(dim=-1, keepdim=True)
    inner = (units @ units.mT).triu(1)
    return _eye(units) - units.mT @ torch.linalg.solve_triangular(inner + 0.5 * _eye(inner), units, upper=True)


def diagonal(matrix: Tensor) -> Tensor:
    """The diagonal, without `torch.diagonal`, which inductor takes with a warning."""
    return (matrix * _eye(matrix)).sum(-2)


def _skew(matrix: Tensor) -> Tensor:
    return (matrix - matrix.mT) / 2


def _eye(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _lower(at: Named) -> Tensor:
    lower = at("lower").tril(-1)
    return lower + _eye(lower)


def _upper(at: Named) -> Tensor:
    return at("upper").triu(1) + at("log_diagonal").exp().diag_embed()
