"""What a file is that was to hold weights and does not: by its first bytes, before a library stumbles over them."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

HEAD = 1024
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "a gzip archive: unpack it (gunzip, tar xf)"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"\xfd7zXZ\0", "an xz archive: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it"),
    (b"(\xb5/\xfd", "a zstd archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\x89HDF\r\n", "an HDF5 file (of Keras?), not of torch"),
    (b"\x93NUMPY", "a numpy array, not of torch"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"GGUF", "a GGUF file, not of torch"),
)
STATE_DICT = "Where it was made, save the tensors alone: torch.save(model.state_dict(), 'weights.pth')"


def not_weights(path: Path) -> str:
    """What the file is instead of weights, and what to do, in one line; empty if it may hold weights.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "an empty file: copy or download it again"
    if head.startswith(b"PK\x03\x04"):
        return _not_torchs(path, size)
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return (
            "a safetensors file, which is not read here: convert it with "
            "torch.save(safetensors.torch.load_file('x.safetensors'), 'x.pth')"
        )
    found = next((what for beginning, what in _BEGINNINGS if head.startswith(beginning)), "")
    return found or _text(head, size)


def in_short(error: Exception) -> str:
    """What torch or pickle say of a file they do not take, without the advice to take it all the same."""
    text = str(error) or type(error).__name__
    if found := re.search(r"GLOBAL ([\w.]+)|([\w.]+) is not allowed", text):
        name = next(filter(None, found.groups()))
        return f"it holds Python's {name} beside tensors, and nothing in a file of weights is executed. {STATE_DICT}"
    if "weights only" in text.lower() or "weights_only" in text or "persistent_load" in text:
        return f"it is no file of torch.save, or holds more than tensors. {STATE_DICT}"
    line = text.strip().splitlines()[0].rstrip(".")
    return line if len(line) <= 200 else f"{line[:197]}..."


def _not_torchs(path: Path, size: int) -> str:
    """Of a file that begins as torch's archives do."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return f"cut short (it has {size} bytes) or damaged: copy or download it again"
    if any(name.endswith("/data.pkl") and name.count("/") == 1 for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of numpy arrays (.npz), not of torch"
    return f"a zip archive that is not torch's (it holds {', '.join(names[:3]) or 'nothing'}): unpack it"


def _text(head: bytes, size: int) -> str:
    try:
        text = head.decode("utf-8-sig", "strict" if size <= HEAD else "ignore").lstrip()
    except UnicodeDecodeError:
        return ""
    printable = text and all(letter.isprintable() or letter.isspace() for letter in text)
    if not printable or re.match(r"\(|c\w+(\.\w+)*\n\w+\n", text):  # pickles of the oldest kind are text too
        return ""
    if text.startswith("version https://git-lfs.github.com/spec/"):
        return f"a Git LFS pointer ({size} bytes of text), not the file itself: fetch that with `git lfs pull`"
    if re.match(r"<(!doctype|html|\?xml|head|body|!--)", text, flags=re.IGNORECASE):
        return "a web page, not the file itself: download it again, by the address of the file"
    return f"a text file that begins with {text[:30]!r}: is it the right one?"
