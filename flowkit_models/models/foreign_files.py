"""Files that people take for checkpoints: what they are, told by content, and what to do."""

import re
from collections.abc import Sequence

_KINDS: tuple[tuple[bytes, str], ...] = (
    (
        rb"version https://git-lfs",
        "a Git LFS pointer, not the file that it stands for: fetch that with git lfs pull, or download it by itself",
    ),
    (
        rb"\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)|\s*<\?xml.*?<html",
        "a web page: the server sent one in place of the file; download it again, by its direct link",
    ),
    (rb"\s*<(\?xml|Error|svg)", "an XML file: download the checkpoint again, by its direct link"),
    (
        rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|II[*+]\0|MM\0[*+]|BM.{12}|....ftyp(avif|heic|heix|mif1)|8BPS",
        "a picture: name a checkpoint here, and the picture where pictures go",
    ),
    (rb"%PDF", "a PDF document: name the checkpoint"),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ\0|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd|.{257}ustar",
        "a packed archive: unpack it, and name the checkpoint in it",
    ),
    (rb"\x89HDF", "an HDF5 file, as Keras writes it: no network of flowkit was published in this format"),
    (rb"GGUF|\x93NUMPY|ONNX|\x08[\x01-\x0a]\x12.{0,40}(pytorch|onnx)", "a file of another format: GGUF, NumPy or ONNX"),
)

_HEAD = 1024

_ARCHIVED = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar", ".pkl")


def foreign_kind(start: bytes) -> str | None:
    """Kind of a file that is no checkpoint, with a remedy, by its first kilobyte; None: it may be one."""
    if not start:
        return "an empty file: copy or download it again"
    if not start.strip(b"\0"):
        return "nothing but zeros, as a broken download leaves them: download it again"
    for pattern, what in _KINDS:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return what
    return "a text file: name the file with the weights" if _is_text(start) else None


def _is_text(start: bytes) -> bool:
    try:
        text = start[:_HEAD].decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:  # a character may be cut at the end
            return False
        text = start[: error.start].decode()
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)


def archived(names: Sequence[str]) -> str:
    """Kind of a ZIP archive without torch's pickle, by the names in it, with a remedy."""
    ends = [name.rpartition("/")[2] for name in names]
    if "constants.pkl" in ends or any("/code/" in name for name in names):
        return "a TorchScript program, not weights: save the state dict of the model that it was made of"
    if any(name.endswith(".npy") for name in names):
        return "NumPy arrays: save the state dict with torch.save, or as .safetensors"
    inside = next((name for name in names if name.lower().endswith(_ARCHIVED)), None)
    if inside is not None:
        return f"a ZIP archive: unpack it, and name the file {inside[:80]!r} in it"
    return "a ZIP archive without a checkpoint in it: not a checkpoint, or not the right file"
