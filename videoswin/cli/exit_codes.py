"""Run a command, print its error as one line or as a traceback, and return its exit code."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import Final

from videoswin._errors import InputError, VideoSwinError
from videoswin.cli.terminal import print_to_stderr

# Errors of the machine, not of the program; they may have no file name.
_ENVIRONMENT_ERRNOS: Final = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EPIPE,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.EROFS,
        errno.ENOMEM,
    }
)


def exit_code(command: Callable[[], int]) -> int:
    """Run a command and return its exit code.

    Errors raised on purpose and errors of the operating system are printed as one line, bugs with their
    traceback.

    Args:
        command: Function without arguments that returns an exit code.

    Returns:
        The exit code of the command; 2 for invalid arguments, 1 if it failed, 130 if it was interrupted.
    """
    try:
        code = command()
        if sys.stdout is not None:  # None after `>&-`
            sys.stdout.flush()
        return code
    except InputError as error:
        return _fail(error, 2)
    except VideoSwinError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        if not _output_is_closed():
            return _report_bug()
        # The reader closed the pipe, as in `| head`: discard the output, also that of the flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _fail(error, 1) if _is_environment_error(error) else _report_bug()


def _is_environment_error(error: Exception) -> bool:
    """Return whether an error has an explanation by the operating system, such as a full disk."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno in _ENVIRONMENT_ERRNOS)


def _output_is_closed() -> bool:
    """Return whether the reader of standard output closed it; other pipes are between our own processes."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return False


def _report_bug() -> int:
    """Print the traceback of the current exception and where to report it; return exit code 1."""
    for line in traceback.format_exc().splitlines():
        print_to_stderr(line)
    print_to_stderr(
        "videoswin: this is a bug in videoswin. Please report it with the lines above, the command and the "
        "versions of videoswin, torch and av (`pip list`); see CONTRIBUTING.md"
    )
    return 1


def _fail(error: object, code: int) -> int:
    """Print an error as one line and return the exit code."""
    print_to_stderr(f"videoswin: {error}")
    return code
