"""Options of the training recipes, and the settings, training data and test set that they stand for."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from flowkit_models.data.crops import AlignedCrops, AnyScaleCrops, Photos, RandomCrops
from flowkit_models.data.degradation import Bicubic, Degradation, photo
from flowkit_models.data.image_pair import Pair, make_pairs
from flowkit_models.data.pairs import PairFiles, find_pairs, read_pair
from flowkit_models.data.sample_photos import bundled_photos, test_photos
from flowkit_models.data.shards import is_sharded, shard_hint, shard_images
from flowkit_models.images.image_file import check_writable, list_images
from flowkit_models.training import folder_lock
from flowkit_models.training.optim import Adam, Cosine, Milestones
from flowkit_models.training.settings import Settings

UNSAID = tyro.conf.arg(help_behavior_hint="")
"""Of an option whose words say what happens without it."""
PATH = tyro.conf.arg(metavar="PATH", help_behavior_hint="")
NUMBER = tyro.conf.arg(metavar="INT", help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every training recipe. The defaults shown are those of the chosen preset."""

    data: Annotated[Path | None, PATH] = None
    """HR photographs to train on: a folder, searched recursively; or shards, tar archives as WebDataset's or Parquet
    files: a path or URL, with * or {000..127} for several. Without it: the photographs in the wheels."""
    source_weights: Annotated[dict[str, float], UNSAID] = field(default_factory=dict)
    """How often to see some photographs, by patterns of their paths in --data: "nature_*" 0.5 "old/*" 0. Others: 1."""
    paired: bool = False
    """--data is a set of HR and LR files, in any of the layouts in use."""
    degrade: Literal["bicubic", "photo"] = "bicubic"
    """How LR is made of HR, for super-resolution. photo: blurred, noisy and with JPEG's blocks, as photographs are."""
    augment: Annotated[Literal["flip", "flips", "colours"] | None, UNSAID] = None
    """flip: crops turned left-right; flips: upside down and transposed too; colours: also channels in any order, and
    negatives. Without it: as published."""
    smallest: float = 1.0
    """Crops for super-resolution are of photographs made smaller, height and width by a random factor each from this
    to 1: 0.5, say."""
    test: Annotated[Path | None, PATH] = None
    """Set to score on, HR and LR files or HR alone. Without it: three photographs in the wheels."""
    out: Path = Path("runs")
    """Folder of the run: checkpoints, state, logs, metrics and pictures."""
    resume: bool = False
    """Go on with the run in --out, exactly where it stopped."""
    overwrite: bool = False
    """Delete the run in --out and start anew."""
    steps: int = 1000
    """Iterations."""
    batch: int = 16
    """Crops per iteration, over all processes."""
    accumulate: int = 1
    """Micro-batches into which each process's crops are split to save memory."""
    crop: int = 160
    """Side of the HR crops, in pixels; a multiple of the scale."""
    lr: float = 2.5e-4
    """Learning rate of Adam."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's decay rates."""
    muon: float = 0.0
    """Convolutions take steps of Muon at so many times the rate, 4 say: better short runs; 0: Adam's."""
    weight_decay: float = 0.0
    """Added to the gradient, times the weights."""
    milestones: Annotated[tuple[int, ...], UNSAID] = ()
    """Iterations at which the rate is halved. Without it: a short warm-up, then a cosine down to 0.01."""
    restart_every: Annotated[int | None, NUMBER] = None
    """Without milestones: the cosine starts again every so many iterations, without a warm-up."""
    halved_at_milestone: bool = True
    """The milestone's own iteration already runs at the lower rate; False: the one after it is the first."""
    clip_value: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Gradients are clamped to ± this; None: not."""
    clip_norm: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Gradients together are then scaled to at most this norm; None: not."""
    average: float = 0.0
    """Decay of the exponential moving average of the weights, which is then scored and saved; 0: none."""
    network: Annotated[dict[str, str], UNSAID] = field(default_factory=dict)
    """Fields of the model's config in place of the preset's, as JSON: features 48 blocks "[[0, 0], [2, 1]]"."""
    memory: Literal["plain", "lean"] = "plain"
    """lean: reversible flows and recomputed extractors keep few activations, for about a third more time."""
    networks: Literal["float32", "bf16"] = "float32"
    """Precision of the networks; the invertible maps stay in float32."""
    autocast: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision around the whole step, where --networks is float32."""
    compile: bool = False
    """Compile the model for training (torch.compile): minutes at the start of a run and of each resume, then faster."""
    validate_every: int = 5000
    """Iterations between scores on the test set."""
    save_every: int = 1000
    """Iterations between saved states, from which a killed run goes on."""
    workers: int = 0
    """Processes that decode and crop ahead, for each training process."""
    tensorboard: bool = True
    """Write TensorBoard's event files beside log.jsonl."""
    divergence: float = 20.0
    """Twenty losses in a row so many times above their own past end the run (docs/training.md); 0: never."""
    draws: int = 5
    """Samples per test image in the final table."""
    seed: int = 0
    """Seed of weights, crops, noise and samples."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: the GPU, if there is one."""

    def sizes(self) -> dict[str, Any]:
        """The config's fields that --network gives.

        Raises:
            ValueError: for one that is no JSON.
        """
        try:
            return {name: json.loads(value) for name, value in self.network.items()}
        except ValueError:
            raise ValueError(f'--network {self.network}: numbers, lists, true or "words" are expected') from None

    def settings(self, discriminator: Adam | None = None) -> Settings:
        """Settings for the trainer.

        Raises:
            ValueError: for a model that can't be compiled.
        """
        if self.compile and self.memory == "lean":
            raise ValueError(
                "--compile: --memory lean goes through layers again by hand, which no graph holds; use plain"
            )
        adam = Adam(
            self.lr,
            self.betas,
            weight_decay=self.weight_decay,
            schedule=self._schedule(),
            clip_value=self.clip_value,
            clip_norm=self.clip_norm,
            muon=self.muon,
        )
        return Settings(
            self.steps,
            self.batch,
            adam,
            discriminator,
            average=self.average,
            accumulate=self.accumulate,
            precision=self.autocast,
            seed=self.seed,
            validate_every=self.validate_every,
            save_every=self.save_every,
            workers=self.workers,
            divergence=self.divergence,
            tensorboard=self.tensorboard,
            compile=self.compile,
            cpu=self.device == "cpu",
        )

    def _schedule(self) -> Milestones | Cosine:
        if self.milestones:
            return Milestones(self.milestones, inclusive=self.halved_at_milestone)
        if self.restart_every is not None:
            return Cosine(self.restart_every, 0, 1e-7 / self.lr, restarts=True)
        return Cosine(self.steps)

    def folder(self) -> Path:
        """The folder of the run, proved to be writable, and locked until the recipe ends (`recipe.run`).

        Raises:
            ValueError: for numbers that make no sense, or if another process trains there, before anything is done.
        """
        if self.restart_every is not None and self.restart_every < 1:
            raise ValueError(f"--restart-every {self.restart_every}: at least 1 iteration; without it nothing restarts")
        if min(self.steps, self.batch, self.crop, self.draws) < 1 or self.lr <= 0:
            raise ValueError("steps, batch, crop and draws must be at least 1, and lr positive")
        folder = check_writable(self.out)
        if os.environ.get("RANK", "0") == "0":  # of several processes of one run, the first
            folder_lock.acquire(folder)
        return folder

    def crops(self, scale: int) -> RandomCrops | AlignedCrops:
        """Crops for super-resolution: LR made from the HR crop, flipped left-right by default; or from LR files.

        Raises:
            ValueError: if LR files are to be degraded, or crops of them to be made smaller.
        """
        if self.paired and self.degrade != "bicubic":
            raise ValueError(f"--degrade {self.degrade} makes LR images of HR ones, and --paired reads them from files")
        if self.paired and self.smallest != 1:
            raise ValueError(
                f"--smallest {self.smallest:g} makes new HR images, and --paired reads LR from files: add --smallest 1"
            )
        augment, weights = self.augment or "flip", self._weight
        if self.paired:
            pairs = self._pairs(scale)
            return AlignedCrops(pairs, self.crop, Bicubic(scale), augment=augment, weights=weights, seed=self.seed)
        degradation = self._degradation(scale)
        return RandomCrops(
            self._photos(),
            self.crop,
            degradation,
            augment=augment,
            smallest=self.smallest,
            weights=weights,
            seed=self.seed,
        )

    def any_scale_crops(self, largest: int) -> AnyScaleCrops:
        """Crops for super-resolution by factors from 1 to `largest`, of which --crop is the HR side at that.

        Raises:
            ValueError: if LR files are to be used, LR images to be degraded or photographs to be made smaller, or the
                crop is no multiple.
        """
        if self.paired or self.degrade != "bicubic" or self.smallest != 1:
            raise ValueError(
                "--paired, --degrade and --smallest: LR images of all factors are made here, by bicubic; leave them out"
            )
        if self.crop % largest:
            raise ValueError(
                f"--crop {self.crop}: a multiple of {largest} is expected, LR crops have {largest}th of it"
            )
        side, augment, weights = self.crop // largest, self.augment or "flips", self._weight
        return AnyScaleCrops(
            self._photos(), side, largest, self.batch, augment=augment, weights=weights, seed=self.seed
        )

    def aligned_crops(self, scale: int, rounded: bool) -> AlignedCrops:
        """Crops for rescaling: LR of the whole photograph, or from LR files; flipped and transposed by default.

        Raises:
            ValueError: if the LR images are to be degraded: a rescaling model makes its own; or photographs to be made
                smaller.
        """
        if self.degrade != "bicubic":
            raise ValueError(f"--degrade {self.degrade}: a rescaling model makes its own LR images; leave it out")
        if self.smallest != 1:
            raise ValueError(f"--smallest {self.smallest:g}: for super-resolution alone; leave it out")
        images, rounded = (self._pairs(scale), True) if self.paired else (self._photos(), rounded)
        reference, augment, weights = Bicubic(scale, rounded=rounded), self.augment or "flips", self._weight
        return AlignedCrops(images, self.crop, reference, augment=augment, weights=weights, seed=self.seed)

    def test_pairs(self, scale: float) -> dict[str, Pair]:
        """The test set. LR images that it has not are made of HR as the crops' are: each always in the same way."""
        if self.test is None:
            pairs, own = make_pairs(test_photos(), scale), set()
        else:
            files = find_pairs(self.test, scale)
            pairs = {found.name: Pair.of(*read_pair(found, scale)) for found in files}
            own = {found.name for found in files if found.lr is not None}
        if self.degrade == "bicubic":
            return pairs
        degrade = self._degradation(round(scale))
        return {
            name: pair if name in own else Pair.of(pair.hr[0], degrade(pair.hr[0], np.random.default_rng(i)))
            for i, (name, pair) in enumerate(pairs.items())
        }

    def _degradation(self, scale: int) -> Degradation:
        return photo(scale) if self.degrade == "photo" else Bicubic(scale)

    def _photos(self) -> Photos:
        if self.data is None:
            photos = bundled_photos()
            self._check_patterns(list(photos))
            return photos
        if self.source_weights and is_sharded(self.data):
            self._check_patterns(list(shard_images(self.data, self.crop)))
        elif self.source_weights:
            with shard_hint(self.data):
                files = list_images(self.data)
            self._check_patterns([path.relative_to(self.data).as_posix() for path in files])
        return self.data

    def _pairs(self, scale: int) -> list[PairFiles]:
        if self.data is None:
            raise ValueError("--paired needs --data, a set of HR and LR files")
        if is_sharded(self.data):
            raise ValueError(f"--paired: {self.data} are shards, of HR images alone; pairs are read from folders")
        pairs = find_pairs(self.data, scale)
        if any(pair.lr is None for pair in pairs):
            raise ValueError(f"--paired: {self.data} holds HR files only, and no folder of LR files is beside or in it")
        self._check_patterns([pair.name for pair in pairs])
        return pairs

    def _check_patterns(self, names: Sequence[str]) -> None:
        """Raises ValueError for a pattern that fits no photograph, be it one that is skipped."""
        for pattern in self.source_weights:
            if not any(fnmatchcase(name, pattern) for name in names):
                where = self.data or "the photographs in the wheels"
                raise ValueError(f"--source-weights: nothing in {where} is called {pattern}; there is {names[0]} …")

    def _weight(self, name: str) -> float:
        """Weight of a photograph by name; two in the wheels look unlike everyday ones."""
        known = [("retina", 0.1), ("hubble", 0.1)] if self.data is None else []
        fitting = [w for pattern, w in [*known, *self.source_weights.items()] if fnmatchcase(name, pattern)]
        return fitting[-1] if fitting else 1.0
