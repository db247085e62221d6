"""The command line: ``nbgather COMMAND``; the commands themselves are in ``commands``.

Exit status: 0 done; 1 a comparison found a difference, or what was asked for failed; 2 a mistake of
the user's. Every failure is reported in one line, a bug of nbgather's as such; ``--debug`` shows
the traceback.
"""

from __future__ import annotations

import dis
import os
import sys
from pathlib import Path

__all__ = ["main"]

#: What a check of nbgather's raises of arguments that do not fit.
CHECK_ERRORS = (ValueError, TypeError, IndexError)
_PACKAGE = str(Path(__file__).parents[1]) + os.sep


def main() -> None:
    """Run the command that ``sys.argv`` names."""
    try:
        from nbgather.apps import commands

        commands.app(prog_name="nbgather")
    except BrokenPipeError:
        # The reader of the output has gone; nothing may be flushed to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if "--debug" in sys.argv[1:]:
            raise
        mistake = is_mistake(error)
        if mistake or (isinstance(error, RuntimeError) and _raised_on_purpose(error)):
            sys.stderr.write(f"error: {_message(error)}\n")
            sys.exit(2 if mistake else 1)
        text = ": ".join(filter(None, (type(error).__name__, _one_line(error))))
        sys.stderr.write(
            f"nbgather failed: {text} (this is a bug of nbgather's; --debug shows the traceback to"
            " report)\n"
        )
        sys.exit(1)


def is_mistake(error: Exception) -> bool:
    """Whether the arguments or the machine are at fault, rather than nbgather's code.

    A TypeError that a check raises says what does not fit; one that Python or a library raises of
    what nbgather passed to it shows a bug.
    """
    if isinstance(error, ImportError):
        return (error.name or "").partition(".")[0] != "nbgather"
    if isinstance(error, (OSError, MemoryError)):
        return True
    return isinstance(error, CHECK_ERRORS) and _raised_on_purpose(error)


def _raised_on_purpose(error: Exception) -> bool:
    """Whether a ``raise`` of this package raised it, rather than an expression that failed."""
    step = error.__traceback__
    if step is None or not str(error):  # an error without a message is not meant for users
        return False
    while step.tb_next is not None:
        step = step.tb_next
    code = step.tb_frame.f_code
    if not code.co_filename.startswith(_PACKAGE) or step.tb_lasti < 0:
        return False
    return dis.opname[code.co_code[step.tb_lasti]] == "RAISE_VARARGS"


def _message(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        return f"this command needs {package}: pip install 'nbgather[all]'"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return ": ".join(filter(None, ("not enough memory", _one_line(error))))
    return _one_line(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
