"""From the command line to the list of runs, each a recipe that was checked."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Sequence

from nfnets.errors import UserError
from nfnets.sweep.axes import (
    CONFIG_FIELD,
    Axis,
    Cell,
    cell_name,
    cells_of,
    parse_axis,
)
from nfnets.sweep.directory import Contents, folder_name
from nfnets.sweep.grids import Grid, named_grid
from nfnets.training.recipe import Recipe

_OVERRIDE = re.compile(r"--?config\.(?P<field>[^=]+)(=(?P<value>.*))?$", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a command asks for.

    Attributes:
      grid: the named grid, or None.
      config: the recipe of all runs; None where an axis says it.
      fixed: settings of all runs.
      axes: at least one.
    """

    grid: str | None
    config: str | None
    fixed: Cell
    axes: tuple[Axis, ...]


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One cell of the grid.

    Attributes:
      name: its settings, readable and unique.
      cell: the same in pairs.
      arguments: for ``experiments/run.py``, all but the work directory.
      recipe: what they mean.
    """

    name: str
    cell: Cell
    arguments: tuple[str, ...]
    recipe: Recipe


def split_arguments(argv: Sequence[str]) -> tuple[list[str], str | None, Cell]:
    """Takes ``--config=NAME`` and ``--config.FIELD=VALUE`` out of a command line.

    Returns:
      The other arguments, the name (None when it was not given), the settings.

    Raises:
      UserError: an override has no value, or something is given twice.
    """
    rest: list[str] = []
    given: dict[str, str] = {}
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("--config", "-config"):
            argument = f"--config={next(arguments, '')}"
        override = _OVERRIDE.match(argument)
        if override is None and not re.match(r"--?config=", argument):
            rest.append(argument)
            continue
        field, value = CONFIG_FIELD, argument.partition("=")[2]
        if override is not None:
            field, value = override["field"], override["value"]
        if not value:
            raise UserError(f"{argument} needs a value: --config.FIELD=VALUE")
        if field in given:
            raise UserError(f"{field} is given twice, as {given[field]} and {value}")
        given[field] = value
    name = given.pop(CONFIG_FIELD, None)
    return rest, name, tuple(given.items())


def make_plan(
    name: str | None, config: str | None, fixed: Cell, grids: Iterable[str]
) -> Plan:
    """Puts a named grid and what replaces parts of it together.

    Args:
      name: of the grid, or None.
      config: the recipe; None takes the named grid's.
      fixed: settings of all runs; they replace the named grid's own.
      grids: axes as they were typed; each replaces those of the named grid that share
        a field with it, or is one more.

    Raises:
      UserError: an axis, or the combination, makes no sense.
    """
    base = Grid("", None, ()) if name is None else named_grid(name)
    axes = list(base.axes)
    typed: set[str] = set()
    for new in map(parse_axis, grids):
        if typed & set(new.fields):
            raise UserError(f"two --grid of {', '.join(typed & set(new.fields))}")
        typed |= set(new.fields)
        shared = [i for i, a in enumerate(axes) if set(a.fields) & set(new.fields)]
        place = shared[0] if shared else len(axes)
        axes = [a for i, a in enumerate(axes) if i not in shared]
        axes.insert(place, new)
    plan = Plan(
        grid=name,
        config=base.config if config is None else config,
        fixed=tuple((dict(base.fixed) | dict(fixed)).items()),
        axes=tuple(axes),
    )
    return _checked(plan, config)


def _checked(plan: Plan, config: str | None) -> Plan:
    fields = {field for a in plan.axes for field in a.fields}
    if not fields:
        raise UserError("give --grid=FIELD=V1,V2,... or --name=GRID (--list)")
    for field, value in plan.fixed:
        if field in fields:
            raise UserError(
                f"--config.{field}={value}, but {field} is an axis of the grid; give "
                f"--grid={field}={value}"
            )
    if CONFIG_FIELD not in fields:
        if plan.config is None:
            raise UserError("give --config=NAME (run.py --list), or --grid=config=...")
        return plan
    if config is not None:
        raise UserError(
            f"--config={config}, but config is an axis of the grid; give "
            f"--grid=config={config}"
        )
    return dataclasses.replace(plan, config=None)


def plan_runs(
    plan: Plan, resolve: Callable[[Sequence[str]], Recipe]
) -> tuple[PlannedRun, ...]:
    """All runs of the grid, in order, each with its recipe.

    Args:
      plan: of the command.
      resolve: gives the recipe of arguments of ``experiments/run.py``.

    Raises:
      UserError: the settings of a cell make no recipe (the message names it), or two
        cells are the same run.
    """
    runs: list[PlannedRun] = []
    seen: dict[str, str] = {}
    for cell in cells_of(plan.axes):
        run = _planned(plan, cell, resolve)
        recipe = json.dumps(run.recipe.to_dict(), sort_keys=True)
        for key in (recipe, folder_name(run.name).lower()):
            if key in seen:
                raise UserError(f"{seen[key]} and {run.name} are the same run")
            seen[key] = run.name
        runs.append(run)
    return tuple(runs)


def _planned(
    plan: Plan, cell: Cell, resolve: Callable[[Sequence[str]], Recipe]
) -> PlannedRun:
    config = dict(cell).get(CONFIG_FIELD, plan.config)
    settings = [*plan.fixed, *(s for s in cell if s[0] != CONFIG_FIELD)]
    overrides = [f"--config.{field}={value}" for field, value in settings]
    arguments = (f"--config={config}", *overrides)
    name = cell_name(cell)
    try:
        recipe = resolve(arguments)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return PlannedRun(name, cell, arguments, recipe)


def contents_of(plan: Plan, runs: Sequence[PlannedRun], command: str) -> Contents:
    """What ``sweep.json`` says of a plan, and the command as it was typed."""
    return Contents(
        command=command,
        grid=plan.grid,
        config=plan.config,
        fixed=dict(plan.fixed),
        axes=tuple(a.fields for a in plan.axes),
        runs=tuple(run.cell for run in runs),
    )
