"""SAIN's objective: sums over pixels, means over the batch, JPEG on the way from down to up."""

from dataclasses import dataclass

from torch import Tensor

from flowkit.bases import round_straight_through
from flowkit_models.data.loader import Batch, Draws
from flowkit_models.images.jpeg import Subsampling, simulate_jpeg
from flowkit_models.models.sain.model import SAIN
from flowkit_models.training.losses import charbonnier, squared
from flowkit_models.training.objective import Objective, Outcome


@dataclass(frozen=True)
class SAINWeights:
    """Weights of SAIN's losses, which are sums over an image, and the JPEG that it is trained with.

    J is JPEG, y* the bicubic LR image, l the model's, ŷ its guess at J(l), l′ what it recovers of l on the way back.

    Attributes:
        back: of the Charbonnier distance of x̂ and x.
        clean: of Σ (l − y*)², a quarter of the square of the scale, as the next three.
        bicubic: of Σ (ŷ − J(y*))².
        recovered: of Σ (l − l′)².
        compressed: of Σ (ŷ − J(l))².
        temperature: 1 draws the details from their mixture, 0 takes its median.
        quality: range of J's quality within 1 to 100, both ends included, drawn for each sample.
        subsampling: of J's chroma.

    Raises:
        ValueError: for another temperature or quality.
    """

    back: float = 1.0
    clean: float = 4.0
    bicubic: float = 4.0
    recovered: float = 4.0
    compressed: float = 4.0
    temperature: float = 1.0
    quality: tuple[int, int] = (30, 95)
    subsampling: Subsampling = "4:2:0"

    def __post_init__(self) -> None:
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError(f"SAINWeights: quality must be a range within 1 and 100, got {self.quality}")
        if self.temperature not in (0, 1):
            raise ValueError(f"SAINWeights: temperature must be 0 (median) or 1 (draws), got {self.temperature}")


class SAINRescaling(Objective):
    """Down, 8 bits, JPEG that has a gradient, and up again; targets go through JPEG as it is.

    Args:
        model: a SAIN.
        weights: of the losses.
    """

    model: SAIN

    def __init__(self, model: SAIN, weights: SAINWeights) -> None:
        super().__init__(model)
        self.weights = weights

    def forward(self, phase: str, batch: Batch, draws: Draws, step: int, image: Tensor | None = None) -> Outcome:
        """The loss."""
        w = self.weights
        low, high = w.quality
        quality = (low + draws.uniform("quality", (1,))[:, 0] * (high + 1 - low)).long().clamp(max=high)
        clean, compressed, details, _ = self.model.reduce(batch.hr)
        stored = round_straight_through(clean)
        sent = simulate_jpeg(stored, quality, w.subsampling, "smooth")
        again, recovered = self.model.restore(sent, self._details(details, draws))
        real = (simulate_jpeg(y.detach(), quality, w.subsampling) for y in (batch.lr, stored))
        logs = {
            "back": charbonnier(again, batch.hr),
            "clean": squared(clean, batch.lr),
            "bicubic": squared(compressed, next(real)),
            "recovered": squared(stored, recovered),
            "compressed": squared(compressed, next(real)),
        }
        loss = sum((getattr(w, name) * value for name, value in logs.items()), clean.new_zeros(()))
        return Outcome(loss, {name: value.detach() for name, value in logs.items()}, again)

    def _details(self, like: Tensor, draws: Draws) -> Tensor:
        """Details of the mixture, or its median, in the shape of an image's."""
        mixture, shape = self.model.mixture, like.shape[1:]
        if self.weights.temperature == 0:
            return mixture.quantile(like.new_zeros(())).expand(like.shape)
        normal = draws.normal("z", shape).to(like.dtype)
        return mixture.sample(normal, draws.uniform("component", (*shape, len(mixture.logits))).to(like.dtype))
