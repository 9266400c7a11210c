"""One adapter in the disk cache: its files, and a manifest that tells whether they are whole.

::

    <entry>/manifest.json     names, lengths and times of the files; also the file that is locked
    <entry>/files/...         what was fetched

The manifest's own time of modification is when the entry was last used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from loramux.errors import AdapterRefusedError

MANIFEST = "manifest.json"
FILES = "files"


@dataclass(frozen=True)
class Manifest:
    """What an entry holds.

    Args:
        digest: SHA-256 (hex) over the files' names and contents.
        size: length of all files together.
        files: length and time of modification (ns) of each, by relative path.
    """

    digest: str
    size: int
    files: dict[str, tuple[int, int]]

    def describes(self, entry: Path) -> bool:
        """Whether the entry's files are all there and nobody has written to them."""
        try:
            statuses = {name: (entry / FILES / name).lstat() for name in self.files}
        except OSError:
            return False
        return all(
            (status.st_size, status.st_mtime_ns) == self.files[name]
            for name, status in statuses.items()
        )


def seal(entry: Path) -> Manifest:
    """Describe what is in an entry's files, and bring all of it safely to the disk.

    Raises:
        AdapterRefusedError: if there are no files, or one is no regular file.
        OSError: if the disk fails.
    """
    digest, files = hashlib.sha256(), {}
    for path in sorted(_paths(entry / FILES)):
        name = path.relative_to(entry / FILES).as_posix()
        content, size, modified = _digest_and_sync(path)
        digest.update(f"{name}\0{size}\0".encode() + content)
        files[name] = (size, modified)
    if not files:
        raise AdapterRefusedError("the adapter's source brought no files; check its address.")
    manifest = Manifest(digest.hexdigest(), sum(size for size, _ in files.values()), files)
    (entry / MANIFEST).write_text(json.dumps(asdict(manifest)))
    for path in (entry / MANIFEST, entry / FILES, entry):
        sync(path)
    return manifest


def read_manifest(entry: Path) -> Manifest | None:
    """The manifest of an entry; None if there is none that can be read."""
    try:
        fields = json.loads((entry / MANIFEST).read_bytes())
        files = {name: (int(size), int(time)) for name, (size, time) in fields["files"].items()}
        return Manifest(str(fields["digest"]), int(fields["size"]), files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # whatever is wrong with it, the adapter is fetched again


def sync(path: Path) -> None:
    """Wait until a file or directory is on the disk.

    Raises:
        OSError: if the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _paths(directory: Path) -> Iterator[Path]:
    for path in directory.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise AdapterRefusedError(
                f"the adapter's source brought {path.name!r}, which is no regular file; let it "
                "bring plain files only."
            )
        if path.is_file():
            yield path


def _digest_and_sync(path: Path) -> tuple[bytes, int, int]:
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").digest()
        os.fsync(file.fileno())
        status = os.fstat(file.fileno())
    return content, status.st_size, status.st_mtime_ns
