"""The one exception whose message is meant for the person who runs the program."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable

# Exit statuses of the programs: complete, anything else, UserError, non-finite numbers.
EXIT_COMPLETE, EXIT_OTHER, EXIT_USER_ERROR, EXIT_NON_FINITE = 0, 1, 2, 3
EXIT_SIGINT = 130


class UserError(ValueError):
    """A mistake the user can mend: the message is one line and says how.

    Command-line programs print it without a traceback and exit with status 2.
    """


def in_one_line(command: Callable[[], int]) -> int:
    """Runs a program's command, which Ctrl-C and a closed pipe end in one line.

    Returns:
        The exit status.
    """
    try:
        return command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_SIGINT
    except BrokenPipeError:
        return ended_unread()


def ended_unread() -> int:
    """Says that a program ended as nobody reads on, as with ``| head``; its status."""
    # Else the interpreter fails to write what is left, at its exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print("ended: nobody reads the output any more", file=sys.stderr)
    return EXIT_OTHER


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Names the known names closest to ``name``, or lists some when none is close.

    Returns:
        A phrase that ends a message, e.g. ``did you mean nfnet_f1 or nfnet_f7?``.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"known: {shown}"
