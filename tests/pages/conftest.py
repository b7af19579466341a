"""The video of tests/analysis, and a runner of commands."""

import shlex

import pytest

from tests.analysis.conftest import movements as movements
from videoswin.cli import commands


def run(command: str) -> int:
    """Run a command of a page in this process and return its exit code."""
    with pytest.raises(SystemExit) as exit:
        commands.main(shlex.split(command)[1:])
    return int(exit.value.code or 0)
