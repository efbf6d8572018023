"""Settings of a training run, and the fields of its config that a resumed run may change."""

import math
from dataclasses import dataclass
from typing import Literal

from flowkit_models.training.optim import Adam

RESUMABLE_FIELDS = (
    *("steps", "accumulate", "validate_every", "save_every", "log_every", "workers", "patience", "cpu", "tensorboard"),
    "divergence",
    *("draws", "device", "resume", "overwrite", "out", "test"),
)
"""Settings, and options of the recipes, that a resumed run may change: they reach the weights by rounding at most.

Of `steps` that is so if no rate depends on it; otherwise the rest of the run has the rates of one of the new length.
"""

FIELDS_AFTER_FAILURE = ("lr", "critic_lr", "clip_value", "clip_norm")
"""What a run may change besides when it goes on after its numbers were not finite, or its loss far too large."""


@dataclass(frozen=True)
class Settings:
    """Settings of a training run.

    Attributes:
        steps: iterations in all, those before a resume included.
        batch: samples per iteration, over all processes.
        model: settings of the model's optimizer.
        discriminator: of the discriminator's, for an objective that has one.
        average: decay of the exponential moving average of the weights, which is then what is validated and saved;
            0 for none.
        accumulate: micro-batches into which each process's samples are split to save memory.
        precision: "bf16" or "fp16" autocast around the objective; flows switch it off for all but their networks.
        seed: of noise and initialisation.
        validate_every: iterations between validations; there is one at the end, too.
        save_every: iterations between states; there is one before each validation, too.
        log_every: iterations between rows of the log.
        workers: processes that read data ahead, for each training process.
        patience: so many iterations in a row without finite numbers, or with a loss far above its past, end the run.
        divergence: what is far above: see `divergence.DivergenceCheck`; 0 for never.
        compile: the model's likelihood, encoding and decoding go through `torch.compile` in training; validation, whose
            images have many sizes, does not.
        cpu: don't use a GPU that is there.
        tensorboard: write TensorBoard's files beside log.jsonl.

    Raises:
        ValueError: for numbers that make no sense.
    """

    steps: int
    batch: int
    model: Adam
    discriminator: Adam | None = None
    average: float = 0.0
    accumulate: int = 1
    precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    validate_every: int = 5000
    save_every: int = 1000
    log_every: int = 1
    workers: int = 0
    patience: int = 20
    divergence: float = 20.0
    compile: bool = False
    cpu: bool = False
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "validate_every", "save_every", "log_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"settings: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.divergence < math.inf:
            raise ValueError(f"settings: divergence must be 0 or more, got {self.divergence}")
        if not 0 <= self.average < 1:
            raise ValueError(f"settings: average must be in [0, 1), got {self.average}")
        if self.precision not in ("no", "bf16", "fp16"):
            raise ValueError(f'settings: precision must be "no", "bf16" or "fp16", got {self.precision!r}')

    def check_shares(self, processes: int) -> None:
        """Raises ValueError if a batch can't be split into equal parts."""
        if self.batch % (processes * self.accumulate):
            raise ValueError(
                f"settings: batch {self.batch} must be a multiple of processes × accumulate, "
                f"{processes} × {self.accumulate}"
            )
