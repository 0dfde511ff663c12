"""The door of every script: flags from a function's signature (tyro), and one sentence with exit code 2 when the
user is at fault.
"""

import os
import sys
from collections.abc import Callable

import tyro

from colaworld.experiments.episode_crew import WorkersDied
from colaworld.experiments.guard import CodebookCollapse


def main(function: Callable[..., object]) -> None:
    """Run ``function`` with its arguments parsed from the command line.

    ``ValueError`` and ``FileNotFoundError`` are the project's words for bad input: they print one line and exit with 2.
    ``FloatingPointError`` (a NaN in a loss or a cost), ``CodebookCollapse`` and ``WorkersDied`` exit with 1. Set
    ``COLAWORLD_DEBUG=1`` to see the traceback.
    """
    try:
        tyro.cli(function)
    except (ValueError, FileNotFoundError, FloatingPointError, CodebookCollapse, WorkersDied) as error:
        if os.environ.get("COLAWORLD_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, FloatingPointError | CodebookCollapse | WorkersDied) else 2)
    except KeyboardInterrupt:
        print("interrupted; run the same command to go on", file=sys.stderr)
        sys.exit(130)
