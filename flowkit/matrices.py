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
    by_factors: bool = False
    """Whether a few vectors are moved with less work than W takes to be made: `times` and `solve` then make no W."""

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

    def times(self, at: Named, x: Tensor) -> Tensor:
        """W x of vectors x, (n, C)."""
        return x @ self.product(at).mT

    def solve(self, at: Named, y: Tensor) -> Tensor:
        """W⁻¹ y of vectors y, (n, C)."""
        return y @ self.inverse(at).mT


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

    by_factors = True

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

    def times(self, at: Named, x: Tensor) -> Tensor:
        """Factor by factor."""
        mixed = _lower_times(at, _upper_times(at, self._diagonal(at), x))
        return mixed.index_select(1, _order(at("permutation")))

    def solve(self, at: Named, y: Tensor) -> Tensor:
        """By two triangular solves."""
        half = _lower_solve(at, y.index_select(1, _order(at("permutation").mT)))
        return _upper_solve(at, self._diagonal(at), half)

    def _upper(self, at: Named) -> Tensor:
        return at("upper").triu(1) + self._diagonal(at).diag_embed()

    @staticmethod
    def _diagonal(at: Named) -> Tensor:
        return at("sign") * at("log_diagonal").exp()


class LU(Form):
    """W = L (U + diag(eᵈ)), from the identity."""

    rotates = False
    by_factors = True

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

    def times(self, at: Named, x: Tensor) -> Tensor:
        """Factor by factor."""
        return _lower_times(at, _upper_times(at, at("log_diagonal").exp(), x))

    def solve(self, at: Named, y: Tensor) -> Tensor:
        """By two triangular solves."""
        return _upper_solve(at, at("log_diagonal").exp(), _lower_solve(at, y))


class Householder(Form):
    """A rotation, the product of C or C + 1 reflections I − 2vvᵀ/|v|², an even number (Tomczak and Welling, 2016)."""

    by_factors = True

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

    def times(self, at: Named, x: Tensor) -> Tensor:
        """All reflections in one solve."""
        return _reflected(at("vectors"), x)

    def solve(self, at: Named, y: Tensor) -> Tensor:
        """The same, in the other order."""
        return _reflected(at("vectors"), y, back=True)


class QR(Form):
    """W = Q (U + diag(eᵈ)), Q by reflections (Hoogeboom et al., 2019)."""

    by_factors = True

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

    def times(self, at: Named, x: Tensor) -> Tensor:
        """Factor by factor."""
        return _reflected(at("vectors"), _upper_times(at, at("log_diagonal").exp(), x))

    def solve(self, at: Named, y: Tensor) -> Tensor:
        """The rotation back, and one triangular solve."""
        return _upper_solve(at, at("log_diagonal").exp(), _reflected(at("vectors"), y, back=True))


class SVD(Form):
    """W = U diag(eᵈ) V, two rotations by reflections: the singular values are parameters, and can be bounded."""

    by_factors = True

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

    def times(self, at: Named, x: Tensor) -> Tensor:
        """Factor by factor."""
        return _reflected(at("left"), _reflected(at("right"), x) * at("log_diagonal").exp())

    def solve(self, at: Named, y: Tensor) -> Tensor:
        """Factor by factor, from the other end."""
        scale = (-at("log_diagonal")).exp()
        return _reflected(at("right"), _reflected(at("left"), y, back=True) * scale, back=True)


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

    by_factors = True

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

    def times(self, at: Named, x: Tensor) -> Tensor:
        """One solve."""
        return self._quotient(_skew(at("weight")), x)

    def solve(self, at: Named, y: Tensor) -> Tensor:
        """One solve: the inverse is the rotation of −A."""
        return self._quotient(-_skew(at("weight")), y)

    @staticmethod
    def _quotient(skew: Tensor, x: Tensor) -> Tensor:
        return torch.linalg.solve(_eye(skew) + skew, (x - x @ skew.mT).mT).mT


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


def _reflected(vectors: Tensor, x: Tensor, back: bool = False) -> Tensor:
    """`reflections` of vectors x (n, C), or their transpose, without the matrix."""
    units = vectors / vectors.norm(dim=-1, keepdim=True)
    inner = units @ units.mT
    inner = inner.triu(1) + 0.5 * _eye(inner)
    parts = torch.linalg.solve_triangular(inner.mT if back else inner, units @ x.mT, upper=not back)
    return x - parts.mT @ units


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


def _lower_times(at: Named, x: Tensor) -> Tensor:
    return torch.addmm(x, x, at("lower").tril(-1).mT)


def _upper_times(at: Named, diagonal: Tensor, x: Tensor) -> Tensor:
    return torch.addmm(x * diagonal, x, at("upper").triu(1).mT)


def _lower_solve(at: Named, y: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(at("lower"), y.mT, upper=False, unitriangular=True).mT


def _upper_solve(at: Named, diagonal: Tensor, y: Tensor) -> Tensor:
    """U + diag(d) is (U diag(d)⁻¹ + I) diag(d): the solver takes the ones, and what lies below them, as read."""
    return torch.linalg.solve_triangular(at("upper") / diagonal, y.mT, upper=True, unitriangular=True).mT / diagonal


def _order(permutation: Tensor) -> Tensor:
    """The column of the one in each row: cheaper than a product with the matrix, or a search in it."""
    return (permutation @ torch.arange(len(permutation), dtype=permutation.dtype, device=permutation.device)).long()
