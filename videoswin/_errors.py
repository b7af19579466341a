"""Exceptions of the package; any other exception that it raises is a bug."""


class VideoSwinError(Exception):
    """Base class of the package's exceptions; the message is sufficient without a traceback.

    It is raised directly if work cannot be finished for an external reason, such as a full disk. The command
    line prints the message as one line and exits with code 1.
    """


class InputError(VideoSwinError, ValueError):
    """Invalid input from the user or a file: the message has name, requirement, value and cure.

    The command line prints the message as one line and exits with code 2. It is raised only where values
    enter the package; a plain ValueError indicates a wrong call inside the package.
    """


class MissingPackageError(VideoSwinError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class TrainingError(VideoSwinError, RuntimeError):
    """A run that cannot continue; the message states the reason and a cure."""
