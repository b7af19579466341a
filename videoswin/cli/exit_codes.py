"""How a command ends: its exit code, and one line or a traceback for what went wrong."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import Final

from videoswin._errors import InputError, VideoSwinError
from videoswin.cli.terminal import print_to_stderr

# What the machine, not the program, lacks; such an error may carry no file name.
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

    Errors raised on purpose are printed as one line, bugs with their traceback.

    Args:
        command: Does the work and returns its own exit code.

    Returns:
        The command's own code; 2 if the call was wrong, 1 if the work failed, 130 if it was interrupted.
    """
    try:
        code = command()
        if sys.stdout is not None:  # as after `>&-`
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
        # The reader of our output has left, as in `| head`: nothing more to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _fail(error, 1) if _is_environment_error(error) else _report_bug()


def _is_environment_error(error: Exception) -> bool:
    """Whether the operating system refused something that its message explains, such as a file or space."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno in _ENVIRONMENT_ERRNOS)


def _output_is_closed() -> bool:
    """Whether it is standard output that nobody reads, and not a pipe between our own processes."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return False


def _report_bug() -> int:
    """Print the traceback of the exception being handled, and where to report it."""
    for line in traceback.format_exc().splitlines():
        print_to_stderr(line)
    print_to_stderr(
        "videoswin: this is a bug in videoswin. Please report it with the lines above, the command and the "
        "versions of videoswin, torch and av (`pip list`); see CONTRIBUTING.md"
    )
    return 1


def _fail(error: object, code: int) -> int:
    print_to_stderr(f"videoswin: {error}")
    return code
