"""What the programs share that are about weights: which run's, or which file's.

Flags of these programs: ``config``, ``workdir``, ``checkpoint``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from absl import flags

from nfnets.command_line import parse_flags
from nfnets.errors import UserError
from nfnets.training.config_files import rewrite_argv
from nfnets.training.recipe import Recipe
from nfnets.training.storage import as_path

if TYPE_CHECKING:
    from nfnets.training.tested_weights import Tested


@dataclasses.dataclass(frozen=True)
class WeightsChoice:
    """Which weights, as the command says.

    Attributes:
      run: a work directory; None where ``recipe.init_from`` names a file.
      recipe: of --config; None takes the run's own.
      which: of the run's checkpoints: a step, "best", or None for the last.
    """

    run: str | None
    recipe: Recipe | None
    which: int | Literal["best"] | None

    def read(self, log: Callable[[str], None]) -> Tested:
        """Reads them.

        Raises:
          UserError: they are not there, damaged, or of another network.
        """
        from nfnets.training import tested_weights

        if self.run is not None:
            run = as_path(self.run)
            return tested_weights.read_run_weights(run, self.recipe, self.which, log)
        assert self.recipe is not None  # choose_weights has checked
        return tested_weights.read_file_weights(self.recipe, log)


def choose_weights(
    argv: list[str], values: flags.FlagValues, config_dir: Path, *, paths: bool = False
) -> tuple[WeightsChoice, list[str]]:
    """Parses a command line.

    Args:
      argv: program name and arguments.
      values: the program's flags, the three above among them; they are parsed.
      config_dir: where the named configs are.
      paths: whether there may be arguments that are no flags.

    Returns:
      The weights, and those arguments.

    Raises:
      UserError: they are not said, or twice; or a flag is wrong.
    """
    arguments, name = rewrite_argv(argv, config_dir)
    fields = [argument for argument in arguments if argument.startswith("--config.")]
    if name is None and fields:
        raise UserError(f"{fields[0]} needs --config=NAME; without it the run's counts")
    rest = parse_flags(arguments, values, paths=paths)
    recipe = None if name is None else Recipe.from_config(values.config)
    if values.workdir is not None:
        if any(field.startswith("--config.init_from") for field in fields):
            raise UserError(
                "--workdir and --config.init_from both name weights; give one of them"
            )
    elif recipe is None or recipe.init_from is None:
        raise UserError(
            "give --workdir=RUN, or --config=NAME --config.init_from=FILE, to say "
            "which weights"
        )
    elif values.checkpoint != "last":
        raise UserError(
            f"--checkpoint={values.checkpoint} is of a run, which --workdir names"
        )
    which = _checkpoint(values.checkpoint)
    return WeightsChoice(values.workdir, recipe, which), rest


def _checkpoint(text: str) -> int | Literal["best"] | None:
    if text == "best":
        return "best"
    if text != "last" and not text.isdecimal():
        raise UserError(f"--checkpoint is {text!r}; expected last, best or a step")
    return None if text == "last" else int(text)
