"""LINF: pixels, or patches of them, as a flow given local Fourier features of the LR image, at any factor."""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowkit import Affine, Chain, Dequantize, Hierarchy, Injector, InvertibleConv1x1, Latents, Level, StandardNormal
from flowkit.bases import draw
from flowkit.bijector import undone, widest
from flowkit.nets import LocalFourier
from flowkit.spatial import Squeeze
from flowkit.tree import describe
from flowkit_models.models.base import ImageFlow, Memory
from flowkit_models.models.blocks import FeatureExtractor
from flowkit_models.models.checks import check_image, checked_size, temperatures
from flowkit_models.models.learned_latents import Prior
from flowkit_models.models.linf.config import LINFConfig
from flowkit_models.models.linf.encoder import ResidualEncoder
from flowkit_models.models.linf.gaussian import Gaussian
from flowkit_models.models.linf.parts import Bias, Columns, OfBilinear, bilinear

BAND = 2**15
"""Queries whose parameters are held together: an image is made in bands of rows of about so many."""


class Seen(NamedTuple):
    """LR images as the flow sees them, whatever the factor.

    Attributes:
        lr: (B, 3, h, w).
        maps: amplitudes and frequencies of their pixels, of `LocalFourier.maps`.
    """

    lr: Tensor
    maps: Tensor


class LINF(ImageFlow):
    """x ↔ z given the LR image, patch by patch (Yao et al., CVPR 2023); a patch is asked for at its centre.

    The flow acts on the residual of the bilinear upscale, in [-1, 1]. Its layers are affine in that, so each patch has
    a Gaussian density with a full covariance (`gaussian`), and τ = 0 gives the exact mean.

    An HR image of any size is a likely answer to an LR image: `upscale` takes a size, and the others take it from the
    images and the latents.
    """

    config: LINFConfig
    any_scale = True

    def __init__(self, config: LINFConfig, memory: Memory = "plain") -> None:
        d = config.channels
        parts: list[nn.Module] = [Injector(OfBilinear(), Affine("exp", "scale_first"))]
        if config.patch > 1:
            parts.append(Squeeze(config.patch))
        for step in range(config.steps):
            kind = Affine("sigmoid", "scale_first", floor=config.floor)
            parts += [InvertibleConv1x1(d), Bias(d), Injector(Columns(2 * d * step, 2 * d), kind)]
        flow = Hierarchy([Level(Chain(*parts, InvertibleConv1x1(d)))])
        super().__init__(config, flow, config.scale, Dequantize(config.quant, centred=True), StandardNormal())
        lean = memory == "lean"
        self.encoder: nn.Module
        if config.encoder == "edsr":
            self.encoder = ResidualEncoder(config.features, config.blocks, lean)
        else:
            self.encoder = FeatureExtractor(3, (0, config.blocks), config.features, config.growth, tap=False, lean=lean)
        self.local = LocalFourier(config.features, 2 * d * config.steps, config.width, config.hidden, config.depth)

    @property
    def draws_noise(self) -> bool:
        """As the config says."""
        return self.config.noisy

    @property
    def lr_multiple(self) -> int:
        """Sides of an LR image are multiples of this where the image of `scale` times its size is whole patches."""
        return self.config.patch // math.gcd(self.config.patch, self.scale)

    def see(self, lr: Tensor) -> Seen:
        """LR images (B, 3, h, w) in [0, 1], encoded: what all queries share."""
        lr = lr.to(torch.promote_types(lr.dtype, torch.float32))  # half-precision positions would be whole pixels off
        u = (2 * lr - 1).to(self.local.phase.weight.dtype)  # where they differ, the flow says so
        return Seen(lr, self.local.maps(self.encoder(u)))

    def context(self, lr: Tensor | None, size: tuple[int, int] | None = None) -> Any:
        """Context of `flow` for images of a size, or of `scale` times the LR images' size."""
        if lr is None:
            raise ValueError("LINF models HR given LR: pass lr as well, as in encode(hr, lr)")
        size = self.target(lr, size)
        return self.context_at(self.see(lr), *self.centres(lr, size), self.cell(lr, size))

    def context_at(self, seen: Seen, rows: Tensor, columns: Tensor, cell: tuple[float, float]) -> Any:
        """Context of `flow` for a grid of patches.

        Args:
            seen: the LR images.
            rows: (H,), the patches' centres in LR pixels, 0 at the first one's.
            columns: (W,), the same.
            cell: height and width of an HR pixel in LR pixels.
        """
        where = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
        pixels = torch.meshgrid(self._pixels(rows, cell[0]), self._pixels(columns, cell[1]), indexing="ij")
        return ((bilinear(seen.lr, torch.stack(pixels)[None]), self.local.at(seen.maps, where, cell)),)

    def patches(self, hr: Tensor, lr: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Any]:
        """Some patches of HR images, one below the other as an image, and the context of `flow` for them.

        Args:
            hr: (B, 3, H, W).
            lr: (B, 3, h, w).
            rows: (B, N), whole numbers: the first row of each patch.
            columns: (B, N), the first column.

        Returns:
            (B, 3, patch · N, patch), and the context.
        """
        p, cell = self.config.patch, self.cell(lr, (hr.shape[2], hr.shape[3]))
        inner = torch.arange(p, device=hr.device)
        down = (rows[:, :, None, None] + inner[:, None]).expand(-1, -1, p, p).flatten(1, 2)
        right = (columns[:, :, None, None] + inner).expand(-1, -1, p, p).flatten(1, 2)
        image = torch.arange(len(hr), device=hr.device)[:, None, None]
        x = hr.movedim(1, 3)[image, down, right].movedim(3, 1)
        dtype, seen = widest(lr.device), self.see(lr)
        exact, where = (
            torch.stack([(at.to(dtype) + middle) * side - 0.5 for at, side in zip(both, cell, strict=True)], 1)
            for both, middle in (((down, right), 0.5), ((rows, columns), p / 2))
        )
        return x, ((bilinear(seen.lr, exact), self.local.at(seen.maps, where[..., None], cell)),)

    def _pixels(self, centres: Tensor, side: float) -> Tensor:
        """Centres of the pixels of patches along a side."""
        p = self.config.patch
        inner = torch.arange(p, device=centres.device, dtype=centres.dtype) - (p - 1) / 2
        return (centres[:, None] + side * inner).flatten()

    def queries(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches that an image of a size takes."""
        return -(-size[0] // self.config.patch), -(-size[1] // self.config.patch)

    def centres(self, lr: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Centres of the patches of an HR image of a size, in LR pixels: rows and columns, float64 where there is."""
        p, dtype = self.config.patch, widest(lr.device)
        rows, columns = (
            (torch.arange(count, device=lr.device, dtype=dtype) * p + p / 2) * (low / high) - 0.5
            for count, low, high in zip(self.queries(size), lr.shape[2:], size, strict=True)
        )
        return rows, columns

    def cell(self, lr: Tensor, size: tuple[int, int]) -> tuple[float, float]:
        """Height and width of an HR pixel in LR pixels."""
        return lr.shape[2] / size[0], lr.shape[3] / size[1]

    def encode(self, hr: Tensor, lr: Tensor | None = None) -> Any:
        """See `ImageFlow.encode`; hr is of any size in multiples of `config.patch`, whatever that of lr."""
        if lr is None:
            raise ValueError("LINF models HR given LR: pass lr as well, as in encode(hr, lr)")
        return super().encode(hr, lr)

    def _encode(self, hr: Tensor, lr: Tensor | None) -> tuple[Latents, Tensor]:
        assert lr is not None, "checked before"
        p, size, parts = self.config.patch, (hr.shape[2], hr.shape[3]), []
        logdet = hr.new_zeros(len(hr))
        for start, end, context in self._bands(lr, *self.centres(lr, size), self.cell(lr, size)):
            latents, term = self.flow(hr[:, :, p * start : p * end], context)
            parts.append(latents.z[0])
            logdet = logdet + term
        return Latents(None, (torch.cat(parts, 2),)), logdet

    def nll_at(
        self, hr: Tensor, lr: Tensor, rows: Tensor, columns: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Likelihood of some patches, and how far their means are off: what training asks.

        Args:
            hr: as for `patches`, and so lr, rows and columns.
            lr: their LR images.
            rows: of the patches.
            columns: of the patches.
            noise: uniform [0, 1), (B, 3, patch · N, patch); None for none.

        Returns:
            (B,), bits per HR pixel as `nll` counts them; and mean |mean − x|, a scalar, in [0, 1] as images are.
        """
        x, context = self.patches(hr, lr, rows, columns)
        noised = x if noise is None else self._dequantize(x, noise=noise)[0]
        latents, logdet = self.flow(noised, context)
        mean = undone(self.flow, Latents(None, (torch.zeros_like(latents.z[0]),)), context)
        bits = self._bits(latents, logdet, lr, x.shape[2] * x.shape[3], noise is not None)
        return bits, F.l1_loss(mean, x)

    def bits_per_dim(self, hr: Tensor, lr: Tensor) -> Tensor:
        """See `ImageFlow.bits_per_dim`."""
        self._check_pair(hr, lr)
        with self.precision_policy(hr):
            return self.density.bits_per_dim(hr, self.context(lr, (hr.shape[2], hr.shape[3])))

    def decode(self, lr: Tensor, latents: tuple[Tensor, ...], given: Tensor | None = None) -> Tensor:
        """See `ImageFlow.decode`; the size is that of the latents, in patches."""
        self._check_lr(lr)
        if not _is_grid(latents):
            raise ValueError(f"latents: expected a tuple of one tensor (B, {self.config.channels}, rows, columns)")
        size = (latents[0].shape[2] * self.config.patch, latents[0].shape[3] * self.config.patch)
        self.check_z(lr, latents, size)
        with self.precision_policy(lr):
            return self._image(lr, size, latents[0])

    def upscale(
        self,
        lr: Tensor,
        n: int = 1,
        temperature: float | Sequence[float] | None = None,
        generator: torch.Generator | None = None,
        latents: tuple[Tensor, ...] | None = None,
        size: tuple[int, int] | None = None,
        prior: Prior | None = None,
    ) -> Tensor:
        """Draws n HR images for each LR image; see `ImageFlow.upscale`.

        Memory is that of the LR images' features, of the result, and of a band of rows.

        Args:
            lr: as there.
            n: as there.
            temperature: as there.
            generator: as there.
            latents: as there: one tensor (B, D, rows, columns), a vector for each patch.
            size: (H, W) of the HR images: any, also of another factor on each side. Without it: `scale` times the LR
                images'.
            prior: None: there is no learned prior for this family.

        Returns:
            (n, B, 3, H, W), clamped to [0, 1].

        Raises:
            ValueError: as `ImageFlow.upscale`, or for a size that is none.

        Warns:
            UserWarning: for a factor below 1, or above `config.scale`, which the model was not trained for.
        """
        check_image(lr, "lr")
        if prior is not None:
            raise ValueError("LINF takes no learned prior: its picture at temperature 0 is the mean")
        taus = temperatures(n, temperature, latents)
        size = self.target(lr, size)
        if doubt := self.doubt(lr.shape[-2:], size):
            warnings.warn(doubt, stacklevel=2)
        shape = (self.config.channels, *self.queries(size))
        if latents is not None:
            self.check_z(lr, latents, size)
        draws = [draw(lr.new_empty(len(lr), *shape), generator) for _ in taus] if latents is None else [latents[0]]
        z = torch.cat([tau * part for tau, part in zip(taus, draws, strict=True)])
        with self.precision_policy(lr):
            image = self._image(lr, size, z)
        return image.unflatten(0, (len(taus), len(lr)))[..., : size[0], : size[1]].clamp(0, 1)

    def window(self, lr: Tensor, rows: Tensor, columns: Tensor, cell: tuple[float, float], z: Tensor) -> Tensor:
        """HR pixels of a part of an image, made of a part of its LR image; not clamped.

        Args:
            lr: the part of the LR image, (1, 3, h, w).
            rows: as for `context_at`, counted from the part's first pixel.
            columns: the same.
            cell: as for `context_at`.
            z: (1, D, rows, columns).

        Returns:
            (1, 3, patch · rows, patch · columns).
        """
        with self.precision_policy(lr):
            return self._rendered(lr, rows, columns, cell, z)

    def gaussian(self, lr: Tensor, size: tuple[int, int] | None = None) -> Gaussian:
        """Densities of the patches of HR images given LR images, in closed form.

        The flow's inverse is affine in z, so its values at 0 and at the D unit vectors say all of it.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            size: as for `upscale`; multiples of `config.patch`.

        Returns:
            Mean (B, D, rows, columns) and matrix, in [0, 1] as images are; D counts a patch's numbers as
            `torch.nn.functional.pixel_unshuffle` does.
        """
        check_image(lr, "lr")
        size, d = self.target(lr, size), self.config.channels
        corners = torch.cat([lr.new_zeros(1, d), torch.eye(d, dtype=lr.dtype, device=lr.device)])
        z = corners.repeat_interleave(len(lr), 0)[:, :, None, None].expand(-1, -1, *self.queries(size))
        with self.precision_policy(lr):
            image = self._image(lr, size, z)
        mean, *columns = F.pixel_unshuffle(image, self.config.patch).unflatten(0, (d + 1, len(lr)))
        return Gaussian(mean, torch.stack([column - mean for column in columns], 2))

    def target(self, lr: Tensor, size: tuple[int, int] | None) -> tuple[int, int]:
        """The HR size that is asked for.

        Raises:
            ValueError: if that is none.
        """
        if size is None:
            return self.scale * lr.shape[2], self.scale * lr.shape[3]
        return checked_size(size)

    def doubt(self, low: Sequence[int], size: tuple[int, int]) -> str | None:
        """What to say of the factor from an LR size to an HR size, where the model was not trained for it."""
        factors = [high / side for high, side in zip(size, low, strict=True)]
        told = " and ".join(f"{factor:.4g}" for factor in dict.fromkeys(factors))
        if min(factors) < 1 - 1e-9:
            return f"a factor of {told}: below 1 the picture is made smaller, which this model was not trained for"
        # a size is rounded to whole pixels
        if any((high - 1) / side > self.scale for high, side in zip(size, low, strict=True)):
            return f"a factor of {told}: this model was trained for 1 to {self.scale}"
        return None

    def _image(self, lr: Tensor, size: tuple[int, int], z: Tensor) -> Tensor:
        """Whole patches of the images of z (n·B, D, rows, columns), all B of the first draw first."""
        return self._rendered(lr, *self.centres(lr, size), self.cell(lr, size), z)

    def _rendered(self, lr: Tensor, rows: Tensor, columns: Tensor, cell: tuple[float, float], z: Tensor) -> Tensor:
        bands = self._bands(lr, rows, columns, cell)
        return torch.cat([undone(self.flow, Latents(None, (z[:, :, a:b],)), context) for a, b, context in bands], 2)

    def _bands(
        self, lr: Tensor, rows: Tensor, columns: Tensor, cell: tuple[float, float]
    ) -> Iterator[tuple[int, int, Any]]:
        """Yields (start, end, context) of bands of the rows of patches."""
        seen, each = self.see(lr), max(1, BAND // max(1, len(lr) * len(columns)))
        for start in range(0, len(rows), each):
            end = min(len(rows), start + each)
            yield start, end, self.context_at(seen, rows[start:end], columns, cell)

    def _check_pair(self, hr: Tensor, lr: Tensor) -> None:
        self._check_hr(hr)
        check_image(lr, "lr")
        if len(hr) != len(lr):
            raise ValueError(f"lr: expected {len(hr)} images for hr {tuple(hr.shape)}, got {tuple(lr.shape)}")

    def _check_lr(self, lr: Tensor) -> None:
        check_image(lr, "lr")

    def check_z(self, lr: Tensor, latents: Any, size: tuple[int, int]) -> None:
        """Raises ValueError unless latents are those of images of a size."""
        expected = (len(lr), self.config.channels, *self.queries(size))
        if not _is_grid(latents) or tuple(latents[0].shape) != expected:
            got = describe(latents)
            raise ValueError(f"latents: expected one of {expected} for HR of {size[0]} × {size[1]}, got {got}")


def _is_grid(latents: Any) -> bool:
    """Tells if latents are a tuple of one tensor of some patches."""
    one = isinstance(latents, tuple | list) and len(latents) == 1 and isinstance(latents[0], Tensor)
    return one and latents[0].ndim == 4 and latents[0].numel() > 0
