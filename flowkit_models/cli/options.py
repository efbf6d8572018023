"""Options of the subcommands: a dataclass each. They import no torch, so that `--help` is quick."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from flowkit_models.cli.checkpoint_options import Convert, Doctor, Export, Info, Models, Taps  # noqa: F401 - for the dispatcher
from flowkit_models.cli.errors import UsageError
from flowkit_models.cli.prepare_options import Prepare  # noqa: F401 - among the others, for the dispatcher
from flowkit_models.images.formats import labels, read_formats, written_formats

FILES = (
    "Files, folders (searched with those below them) or quoted globs. "
    f"Pictures are {labels(read_formats())}; {labels(read_formats(some_builds=True), 'and')} where libvips can."
)
WRITTEN = "|".join(form.short_name for form in written_formats())
LOSSY = [form for form in written_formats() if form.lossy]
QUALITY = (
    f"Of {labels(LOSSY, 'and')}, 1 to 100; 100 is lossless {labels(form for form in LOSSY if form.lossless_at_100)}."
)


Suffix = Annotated[str, tyro.conf.arg(metavar="TEXT")]


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Input files, and places of the results."""

    noun = "picture"

    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILES", help=FILES)] = ()
    input: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-i"], metavar="FILES")] = ()
    """The same, as an option."""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="PATH")] = ""
    """A file, or a folder, where the tree of an input folder is kept. Without it: beside the input."""
    overwrite: bool = False
    """Replace results of flowkit, never other files. Without it, a folder's are skipped, a single one is an error."""
    debug: bool = False
    """Show where in the code an error came from."""

    def __post_init__(self) -> None:
        """Raises UsageError for options out of range, before anything is read."""
        suffix = getattr(self, "suffix", None) or ""
        if any(part in suffix for part in ("/", "\\", "..")) or not suffix.isprintable():
            raise UsageError(f"--suffix {suffix!r}: the end of a name in print, without separators; -o names a folder")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(FileOptions):
    """The model, its device and precision."""

    model: Annotated[Path | None, tyro.conf.arg(aliases=["-m"], metavar="FILE")] = None
    """Checkpoint: flowkit's .safetensors, a published .pth, or a name of `flowkit models`. Without it: one that comes
    with the package."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """cpu, cuda, cuda:1, mps, xpu; auto: the accelerator, if there is one."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of the networks; the invertible maps stay in float32."""


@dataclass(frozen=True, kw_only=True)
class PictureOptions(ModelOptions):
    """Format of the results."""

    format: Annotated[str | None, tyro.conf.arg(metavar=WRITTEN)] = None
    """Of the results. Without it: that of -o or of the input."""
    quality: Annotated[int, tyro.conf.arg(help=QUALITY)] = 95

    @property
    def extension(self) -> str | None:
        """The end of the results' names that --format asks for."""
        return f".{self.format}" if self.format else None

    def __post_init__(self) -> None:
        """See `FileOptions`."""
        super().__post_init__()
        if self.format is not None and self.format not in WRITTEN.split("|"):
            raise UsageError(f"--format {self.format}: one of {WRITTEN}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: from 1 to 100")


@dataclass(frozen=True, kw_only=True)
class TileOptions(PictureOptions):
    """Tiles, in which large pictures fit in memory."""

    tile: Annotated[int | None, tyro.conf.arg(aliases=["-t"], metavar="PIXELS")] = None
    """Side of the tiles in low-resolution pixels; 0: the whole picture at once. Without it: as large as suits."""

    def __post_init__(self) -> None:
        """See `FileOptions`."""
        super().__post_init__()
        if self.tile is not None and self.tile != 0 and self.tile < 16:
            raise UsageError(f"--tile {self.tile}: at least 16 pixels, or 0 for the whole picture at once")


@dataclass(frozen=True, kw_only=True)
class DrawOptions(TileOptions):
    """Temperature and seed of the draws."""

    temperature: Annotated[float | None, tyro.conf.arg(metavar="TAU")] = None
    """Standard deviation of the latents, 0 to 1: more is livelier. Without it: the one picture of the checkpoint's
    learned prior, if it has one; or what the checkpoint says, or else 0.8 for super-resolution and 1 for rescaling."""
    seed: int = 0
    """Of the draws: the same seed gives the same picture; in tiles, within 1 grey level from --tile 64 on, 4 at 32, 20
    at 16 (measured with the package's own model)."""

    def __post_init__(self) -> None:
        """See `FileOptions`."""
        super().__post_init__()
        if self.temperature is not None and not 0 <= self.temperature < 100:
            raise UsageError(f"--temperature {self.temperature}: at least 0, and about 1 at most")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"--seed {self.seed}: a whole number from 0 to 2⁶⁴ − 1")


@dataclass(frozen=True, kw_only=True)
class RescalingOptions(ModelOptions):
    """The choice among the rescaling models that come with the package."""

    scale: Annotated[int | None, tyro.conf.arg(metavar="2|4")] = None
    """Of the model, in place of --model: large size over small size. Without either: 4."""

    def __post_init__(self) -> None:
        """See `FileOptions`."""
        super().__post_init__()
        if self.scale is not None and self.model is not None:
            raise UsageError("--scale and --model exclude each other: a checkpoint has a scale of its own")


@dataclass(frozen=True, kw_only=True)
class Decode(PictureOptions, RescalingOptions):
    """Makes pictures again from the .safetensors files of `encode`, with the same model.

    photo_lr.safetensors becomes photo_lr_decoded.png.
    """

    noun = "latents file of flowkit encode"

    lr: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A small picture to use in place of the one in the file: the one that `encode` wrote, edited."""
    suffix: Suffix = "_decoded"
    """End of the results' names, before the extension."""


@dataclass(frozen=True, kw_only=True)
class RefinementOptions(TileOptions, RescalingOptions):
    """Refinement of small pictures, so that more of the large ones comes back."""

    refine: bool = False
    """Change each small picture a little, so that the model restores it better; takes about a hundred times as long."""
    radius: Annotated[float | None, tyro.conf.arg(metavar="LEVELS")] = None
    """How far --refine may go: root mean square over a picture, in grey levels of 255. Without it: 1.1."""

    def __post_init__(self) -> None:
        """See `FileOptions`."""
        super().__post_init__()
        if self.radius is not None and not (self.refine and 0 <= self.radius < math.inf):
            raise UsageError(f"--radius {self.radius:g}: at least 0, and with --refine")


@dataclass(frozen=True, kw_only=True)
class Downscale(RefinementOptions):
    """Makes the small pictures from which a rescaling model restores the large ones.

    photo.jpg becomes photo_lr.png: JPEG would blur what the model hides in it. A note in it names the model.
    """

    suffix: Suffix = "_lr"
    """End of the results' names, before the extension."""


@dataclass(frozen=True, kw_only=True)
class Encode(RescalingOptions):
    """Takes pictures apart: a small picture to look at, and a file of latents from which `decode` makes them again.

    photo.jpg becomes photo_lr.png and photo_lr.safetensors. That `decode` gives back every pixel is tried at once.
    """

    suffix: Suffix = "_lr"
    """End of the results' names, before the extension."""


@dataclass(frozen=True, kw_only=True)
class Restore(DrawOptions, RefinementOptions):
    """Downscales pictures and upscales them again, to see what a model keeps.

    photo.jpg becomes photo_restored.jpg, of the same size; in between it has 8 bits.
    """

    suffix: Suffix = "_restored"
    """End of the results' names, before the extension."""


@dataclass(frozen=True, kw_only=True)
class Upscale(DrawOptions):
    """Enlarges pictures; what they don't show is drawn from the model.

    photo.jpg becomes photo_x4.jpg. Orientation, colour profile, EXIF, transparency and 16 bits are kept.
    """

    style: Literal["faithful", "crisp", "photo"] | None = None
    """What to make of a picture, in place of --model: faithful shows nothing that the picture doesn't, and is smooth
    where it is unsure; crisp draws fine texture that may have been there; photo is for photographs as people have them,
    noisy, blurred or from JPEG. Without either: faithful."""
    scale: Annotated[float | None, tyro.conf.arg(metavar="FACTOR")] = None
    """How many times as high and wide, 2.7 say: any, with a LINF model, as linf_any is, which is taken where no model
    is named; others have one factor each. Without it: the model's; a LINF's largest."""
    size: Annotated[str | None, tyro.conf.arg(metavar="WIDTHxHEIGHT")] = None
    """Size of the results in pixels, in place of --scale: 1920x1080; with a LINF model."""
    workers: int = 1
    """Processes that enlarge pictures at the same time, each with a part of the cores, or an accelerator of its own."""
    draws: int = 1
    """Pictures to draw of each: photo_x4_1.jpg, photo_x4_2.jpg, …"""
    suffix: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """End of the results' names, before the extension. Without it: _x4, or what the factor is; _1920x1080 for a
    --size."""

    @property
    def target(self) -> tuple[int, int] | None:
        """(height, width) that --size asks for."""
        if self.size is None:
            return None
        width, height = self.size.lower().replace("×", "x").split("x")
        return int(height), int(width)

    def __post_init__(self) -> None:
        """See `FileOptions`."""
        super().__post_init__()
        if self.style is not None and self.model is not None:
            raise UsageError("--style and --model exclude each other: a style is a model that comes with the package")
        if self.scale is not None and self.size is not None:
            raise UsageError("--scale and --size exclude each other: a size says the factors")
        if self.scale is not None and not 0 < self.scale <= 64:
            raise UsageError(f"--scale {self.scale:g}: a factor above 0, and 64 at most")
        if self.size is not None and not re.fullmatch(r"0*[1-9]\d{0,5}[xX×]0*[1-9]\d{0,5}", self.size, re.ASCII):
            raise UsageError(f"--size {self.size}: width and height in pixels, as 1920x1080")
        for name in ("draws", "workers"):
            if (number := getattr(self, name)) < 1:
                raise UsageError(f"--{name} {number}: at least 1")
        if self.draws > 1 and self.temperature == 0:
            raise UsageError("--temperature 0 has one result: leave --draws out, or raise the temperature")


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Opens a page that enlarges your photographs, and shows draws, where they differ, and edits of their latents.

    Needs the extra `demo`. Nothing leaves the machine, and nothing is fetched from the network.
    """

    model: Annotated[Path | None, tyro.conf.arg(aliases=["-m"], metavar="FILE")] = None
    """Checkpoint that is open at first: ours, a published one of HCFlow, SRFlow or IRN, or a name of `flowkit models`.
    Without it: hcflow_x4, which comes with the package."""
    host: str = "127.0.0.1"
    """Address to listen on. Whoever reaches the page can open checkpoints that you can read: 0.0.0.0 lets all."""
    allow: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """Names, beside localhost and --host, by which browsers may ask for the page; others are answered with 403."""
    port: int = 7860
    """Port to listen on."""
    side: int = 512
    """Longest side of HR images, in pixels; larger photographs are cut or shrunk."""
    max_upload: Annotated[float, tyro.conf.arg(metavar="MB")] = 256.0
    """Size of files that are taken, and of checkpoints that are opened."""
    time_limit: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 120.0
    """A call that takes longer is stopped, and one that waits longer for its turn is sent away."""
    memory: Annotated[float, tyro.conf.arg(metavar="GB")] = 4.0
    """Memory that a process may take for its calls; one that needs more is stopped. Linux only."""
    workers: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """Processes that draw, for several people at once; the first serves --model alone."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """cpu, cuda, cuda:1, mps, xpu; auto: the accelerator, if there is one."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Scores systems as Tables 2, 3 and 4 of HCFlow's paper do: checkpoints of any kind, bicubic, folders of images.

    Writes table.md, results.json with the whole protocol, the images that it shows, and a picture sheet of each set. A
    system that is scored already is not scored again: an interrupted run can be started anew.
    """

    set: tuple[Path, ...]
    """Sets to score on: HR and LR files (HR/ + LR/, DIV2K's, …), or HR alone, whose LR images are then made."""
    lr_set: Path | None = None
    """Folder of the LR files, for a single set, if they lie elsewhere."""
    systems: tuple[str, ...] = ("bicubic",)
    """bicubic, or checkpoints: ours, names of `flowkit models`, published ones of HCFlow, SRFlow and IRN, SRCNN, EDSR,
    RDN, SRResNet, RankSRGAN, and what spandrel recognises. NAME=PATH names one in the table."""
    results: tuple[str, ...] = ()
    """Folders of a system's output images, or of one such folder per set, called as the set. NAME=DIR names it."""
    table: Literal["sr", "face", "rescaling"] = "sr"
    """Which table: 2 (×4), 3 (faces, ×8) or 4 (×4, Y; flows make the LR image themselves)."""
    scale: float | None = None
    """HR size over LR size; 2.7, say, for bicubic and models of any scale. Without it: the table's."""
    metrics: tuple[str, ...] = ()
    """Columns. Without it: the table's. A name that is none lists all."""
    jpeg: tuple[int, ...] = ()
    """Further columns: PSNR (Y) where the LR image is stored as JPEG of these qualities."""
    temperatures: tuple[float, ...] = ()
    """τ of flow models, a row for each. Without it: 0 and 0.9; faces 0 and 0.8; rescaling 1."""
    draws: int = 5
    """Samples per image and temperature."""
    seed: int = 0
    """Seed of the draws, started anew for each row."""
    crop: int | None = None
    """Pixels left out at every edge by PSNR and SSIM. Without it: the scale. SRFlow's own script: 0."""
    window: Literal["gaussian", "uniform"] = "gaussian"
    """SSIM's window. SRFlow's own script: uniform."""
    luma: Literal["exact", "integer"] = "exact"
    """Y as it is, as HCFlow and IRN have it, or rounded, as in MATLAB's tables."""
    rounding: Literal["round", "truncate"] = "round"
    """How results become 8 bits. SRFlow's own script: truncate."""
    edges: Literal["mirror", "clamp"] = "mirror"
    """Edges of the bicubic that makes LR where a set has none: clamp for the usual benchmarks."""
    ties: Literal["even", "up"] = "even"
    """Halves in that bicubic: up for the usual benchmarks."""
    weights: Path | None = None
    """Where the weights of AlexNet and VGG-16 lie, for LPIPS and DISTS. Without it: torch's cache or a download."""
    pictures: int = 4
    """Images per set that the picture sheet shows, the first ones; their first draws are kept as files, too."""
    out: Path = Path("runs/evaluate")
    """Folder of the results."""
    overwrite: bool = False
    """Score systems anew that are scored already."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """cpu, cuda, cuda:1, mps; auto: the GPU, if there is one."""

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        if self.lr_set is not None and len(self.set) > 1:
            raise UsageError("--lr-set goes with a single --set")
        scale_is_fine = self.scale is None or 1 <= self.scale < math.inf
        if self.draws < 1 or self.pictures < 0 or (self.crop or 0) < 0 or not scale_is_fine:
            raise UsageError("--draws and --scale must be at least 1, --pictures and --crop at least 0")
        if not all(0 <= temperature < math.inf for temperature in self.temperatures):
            raise UsageError(f"--temperatures must be at least 0, got {self.temperatures}")
        if not all(1 <= quality <= 100 for quality in self.jpeg):
            raise UsageError(f"--jpeg takes qualities from 1 to 100, got {self.jpeg}")
        if unnamed := [given for given in (*self.systems, *self.results) if given.endswith("=")]:
            raise UsageError(f"{unnamed[0]} names no file: NAME=PATH is expected")
