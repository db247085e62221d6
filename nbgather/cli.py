"""The command line: ``nbgather COMMAND``; the commands themselves are in ``_commands``.

Exit status: 0 done, 1 a comparison found a difference, 2 a mistake of the user's.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

#: What comes of a user's mistake: it is told in one line. Anything else is ours, with a traceback.
MISTAKES = (ValueError, TypeError, IndexError, OSError, ImportError)


def main() -> None:
    """Run the command that ``sys.argv`` names."""
    debug = "--debug" in sys.argv[1:]
    try:
        from nbgather import _commands

        _commands.app(prog_name="nbgather")
    except BrokenPipeError:
        # Whoever read our output has gone; nothing may be flushed to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except MISTAKES as error:
        if debug:
            raise
        sys.stderr.write(f"error: {_line(error)}\n")
        sys.exit(2)


def _line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        return f"this command needs {package}: pip install 'nbgather[all]'"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
