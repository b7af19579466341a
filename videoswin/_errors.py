"""Exceptions of the package, and the import of optional packages.

The command line prints these exceptions as one line; any other exception that reaches it is a bug."""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType


class VideoSwinError(Exception):
    """Base class of the package's exceptions; the message is sufficient without a traceback.

    It is raised directly if work cannot be finished for an external reason, such as a full disk. The command
    line prints the message as one line and exits with code 1.
    """


class InputError(VideoSwinError, ValueError):
    """Invalid input from the user or a file: the message has name, requirement, value and cure.

    The command line prints the message as one line and exits with code 2. It is raised
    wherever the command line, a setting or a file can cause it. Functions that only Python code calls raise a
    plain ValueError for a wrong argument, as PyTorch does; on the command line that would be a bug.
    """


class VideoError(VideoSwinError):
    """Raised for a video that cannot be read; has its `path`, and the `reason` in one line."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        """Create the exception.

        Args:
            path: Video file or folder of images.
            reason: Why it cannot be read, in one line and without the path.
        """
        super().__init__(path, reason)  # both arguments, so that the exception can be pickled
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class MissingPackageError(VideoSwinError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class NonFiniteScoresError(VideoSwinError, ValueError):
    """A model returned scores with NaN or infinity."""


class TrainingError(VideoSwinError, RuntimeError):
    """A run that cannot continue; the message states the reason and a cure."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import and return a module; raise MissingPackageError, an ImportError, if it is not installed.

    Args:
        module: Name of the module.
        extra: Extra of this package that installs it, for the message.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # An installed library with a missing dependency is another error.
        if error.name != module.partition(".")[0]:
            raise
        raise MissingPackageError(
            f"this needs {module.partition('.')[0]}: pip install 'videoswin[{extra}]'", name=module
        ) from error
