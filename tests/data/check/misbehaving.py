"""Work for processes that goes wrong in every way; light, because every process imports it."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from videoswin._errors import VideoError


def act_as_named(path: str, alive: Callable[[], None]) -> str:
    """What the name says, else the name in capitals."""
    alive()
    name = Path(path).name
    if name.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[name])
    if name == "exit":
        os._exit(3)
    if name == "hang":
        signal.pause()
    if name == "broken":
        raise VideoError(path, "it is broken")
    return name.upper()
