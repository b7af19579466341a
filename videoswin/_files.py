"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place once it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        # Some writers make files that nobody else may read; a checkpoint is for whoever the user lets.
        partial.chmod(0o666 & ~_umask())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_all(path: Path) -> Iterator[Path]:
    """As `replacing`, for writers that want the real name, or write other files beside it."""
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        yield Path(folder, path.name)
        # The one that names the others comes last, and an older one goes first: nobody reads half of each.
        *others, main = sorted(Path(folder).iterdir(), key=lambda made: made.name == path.name)
        if others:
            path.unlink(missing_ok=True)
        for made in (*others, main):
            os.replace(made, path.parent / made.name)


def _umask() -> int:
    """What the process takes from the permissions of new files; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
