"""Exceptions that are raised on purpose; anything else that leaves the package is a bug."""


class VideoSwinError(Exception):
    """Base class of the package's own exceptions, whose messages are complete without a traceback.

    Raised directly when work cannot be finished for a reason outside the program, such as a full disk. The
    command line prints the message as one line and exits with 1.
    """


class InputError(VideoSwinError, ValueError):
    """A value from outside that cannot be used: the message has name, requirement, value and cure.

    The command line prints the message as one line and exits with 2. Raised only where values enter the
    package: a plain ValueError says that code of ours called code of ours wrongly.
    """


class MissingPackageError(VideoSwinError, ImportError):
    """An optional package that is not installed; the message names the extra that brings it."""
