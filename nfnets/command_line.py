"""What the programs of ``experiments/`` share: flags, signals, exit statuses, one line.

Exit status: 0 complete, 2 a mistake in the command, data or settings (one line says
which), 3 the numbers went non-finite, 75 interrupted and saved, 1 anything else.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from absl import flags
from ml_collections import config_flags

from nfnets.errors import (
    EXIT_OTHER,
    EXIT_USER_ERROR,
    UserError,
    did_you_mean,
    ended_unread,
)
from nfnets.training import processes
from nfnets.training.config_files import load_config, rewrite_argv
from nfnets.training.recipe import Recipe

EXIT_INTERRUPTED = processes.EXIT_INTERRUPTED

_FIELD = re.compile(r"--?config\.")
_ROW_FIELD = re.compile(r"--?config\.model_overrides\.(\w+)=(.*)", re.DOTALL)


def end_with_status(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Runs a program's command; its errors become a line or a traceback, and a status.

    Where there are several processes, one that failed ends here.
    """
    try:
        status = command(argv)
    except UserError as error:
        status = say_error(" ".join(str(error).split()))
    except ImportError as error:
        status = say_error(f'{error}; training needs: pip install -e ".[train]"')
    except BrokenPipeError:
        status = ended_unread()
    except Exception:
        traceback.print_exc()
        status = EXIT_OTHER
    return processes.leave(status)


def say_error(message: str) -> int:
    """Prints one line, with the process where there are several; gives status 2."""
    where = processes.name()
    print(f"error: {f'{where}: ' if where else ''}{message}", file=sys.stderr)
    return EXIT_USER_ERROR


def say(message: str) -> None:
    """Prints a line at once, on process 0 only."""
    if processes.is_main():
        print(message, flush=True)


def parse_flags(
    arguments: list[str], values: flags.FlagValues, *, paths: bool = False
) -> list[str]:
    """Parses with absl; its errors and the config library's become one line.

    ``--config.model_overrides.FIELD`` takes any field of a model's row, since no config
    states them all; the registry checks them.

    Args:
      arguments: as ``config_files.rewrite_argv`` gives them.
      values: ``absl.flags.FLAGS``, with a ``config`` among them.
      paths: whether there may be arguments that are no flags, before or after these.

    Returns:
      Those arguments.

    Raises:
      UserError: a flag is unknown or wrong, or changes a config that is not named.
    """
    values.set_gnu_getopt(paths)
    fields = [a for a in arguments if _FIELD.match(a)]
    if fields and not any(a.startswith("--config=") for a in arguments):
        raise UserError(f"{fields[0]} needs --config=NAME, the config that it changes")
    row_fields = [match for a in arguments if (match := _ROW_FIELD.fullmatch(a))]
    plain = [a for a in arguments if not _ROW_FIELD.fullmatch(a)]
    absent = [a for a in plain if _FIELD.match(a) and a.endswith("=None")]
    # The config library reads overrides from sys.argv, where --config must come first.
    sys.argv = [a for a in plain if a not in absent]
    try:
        rest = values(sys.argv)
        for argument in absent:
            path = argument.partition("config.")[2].removesuffix("=None")
            with values.config.ignore_type():
                values.config.update_from_flattened_dict({path: None})
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        message = _unknown_field(plain) or (error.args[0] if error.args else error)
        where = " (--print_config shows all fields)" if "print_config" in values else ""
        raise UserError(f"{message}{where}") from error
    if len(rest) > 1 and not paths:
        raise UserError(
            f"unexpected argument {rest[1]!r}; settings are --config.FIELD=x"
        )
    if row_fields:
        _override_row(row_fields, values.config)
    return rest[1:]


def _unknown_field(arguments: list[str]) -> str | None:
    """Names the first ``--config.FIELD`` that the config does not have; None: none."""
    names = [a for a in arguments if a.startswith("--config=")]
    for argument in [a for a in arguments if names and _FIELD.match(a)]:
        path = argument.partition("=")[0].partition("config.")[2]
        fields = load_config(names[0].removeprefix("--config="), Path())
        for name in path.split("."):
            known = list(fields) if hasattr(fields, "keys") else []
            if name not in known:
                hint = f"; {did_you_mean(name, known)}" if known else ""
                return f"the config has no field {path}{hint}"
            fields = fields[name]
    return None


def _override_row(row_fields: list[re.Match[str]], config: Any) -> None:
    """Sets fields of the model's row in a config."""
    if config.model != config.reference_model:
        raise UserError(
            f"{row_fields[0][0]} would be for {config.reference_model}, the recipe's "
            f"own network, not for {config.model}; give --config.reference_model="
            f"{config.model} as well"
        )
    for match in row_fields:
        field, text = match.groups()
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        with config.unlocked(), config.ignore_type():
            config.model_overrides[field] = value


def recipe_of_arguments(arguments: Sequence[str], config_dir: Path) -> Recipe:
    """What ``experiments/run.py`` would train with these arguments.

    Args:
      arguments: ``--config=NAME`` and any ``--config.FIELD=VALUE``, nothing else.
      config_dir: where the named configs are.

    Raises:
      UserError: they make no recipe.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    rewritten, _ = rewrite_argv(["run.py", *arguments], config_dir)
    before = sys.argv
    try:
        with warnings.catch_warnings():
            # The config library's, for how it loads a file.
            warnings.filterwarnings(
                "ignore", r"the load_module\(\)", DeprecationWarning
            )
            parse_flags(rewritten, values)
    finally:
        sys.argv = before
    return Recipe.from_config(values.config)


def stop_on_signals() -> Callable[[], bool]:
    """Catches SIGTERM and SIGINT; the function says whether one came.

    A second one ends the program at once.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        signal.signal(number, signal.SIG_DFL)
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nstopping: saving, then leaving (again: leave now)\n")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, remember)
    return lambda: bool(received)


def quiet_checkpoint_library() -> None:
    """Keeps orbax's own tracebacks off the screen when it meets a damaged or full disk.

    What failed is said by our own messages, in one line.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def show_others(problem: Any) -> None:
        if str(problem.exc_value) != "Event loop is closed":
            show(problem)

    sys.unraisablehook = show_others


def use_compilation_cache() -> None:
    """Keeps compiled steps between runs, per user; JAX's own variable overrides."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
        jax.config.update(
            "jax_compilation_cache_dir", str(Path(base) / "nfnets-flax" / "xla")
        )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
