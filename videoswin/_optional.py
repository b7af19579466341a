"""Import of optional libraries inside the functions that need them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from videoswin._errors import MissingPackageError


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
