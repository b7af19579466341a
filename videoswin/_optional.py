"""Optional libraries, asked for only by the function that needs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from videoswin._errors import MissingPackageError


def require(module: str, *, extra: str) -> ModuleType:
    """The imported module; ImportError saying what to install if it is not there."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # A library that is there but lacks one of its own is a different fault: let it speak.
        if error.name != module.partition(".")[0]:
            raise
        raise MissingPackageError(
            f"this needs {module.partition('.')[0]}: pip install 'videoswin[{extra}]'", name=module
        ) from error
