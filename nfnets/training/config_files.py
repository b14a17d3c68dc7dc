"""Finds configs by name: ``nfnet_f1`` is ``configs/nfnet.py`` called with ``f1``.

``ml_collections.config_flags`` takes only paths, and only before any override; so the
command line is rewritten before absl parses it. Only names made of letters, digits and
underscores are looked up: a config is code, as trusted as the program.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from nfnets.errors import UserError, did_you_mean

_FLAG = re.compile(r"--?config(=(?P<value>.*))?$", re.DOTALL)


def load_module(path: Path) -> ModuleType:
    """Runs a config file and returns it as a module."""
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def list_configs(config_dir: Path) -> list[str]:
    """Names of all configs, sorted: one for each of a file's VARIANTS."""
    names: list[str] = []
    for path in sorted(config_dir.glob("*.py")):
        variants = load_module(path).VARIANTS
        names += [f"{path.stem}_{v}" if v else path.stem for v in variants]
    return sorted(names)


def resolve(name: str, config_dir: Path) -> tuple[Path, str]:
    """The file and variant of a config name; ("digits.py", "") for one without.

    Args:
      name: ``<file>_<variant>``, ``<file>``, ``path/file.py`` or
        ``path/file.py:variant``.
      config_dir: where the named configs are.

    Raises:
      UserError: there is no such config; close names are listed.
    """
    if ".py" in name:
        path, _, variant = name.partition(":")
        if not Path(path).is_file():
            raise UserError(f"there is no config file {path}")
        return Path(path), variant
    known = list_configs(config_dir)
    if name in known:
        for end in range(len(name), 0, -1):
            path_of_prefix = config_dir / f"{name[:end]}.py"
            if path_of_prefix.is_file() and (end == len(name) or name[end] == "_"):
                return path_of_prefix, name[end + 1 :]
    hint = did_you_mean(name, known)
    raise UserError(f"unknown config {name!r}; {hint} (run.py --list shows all)")


def load_config(name: str, config_dir: Path) -> Any:
    """The ``ConfigDict`` of a config name, without overrides.

    Raises:
      UserError: there is no such config.
    """
    path, variant = resolve(name, config_dir)
    module = load_module(path)
    return module.get_config(variant) if variant else module.get_config()


def rewrite_argv(argv: Sequence[str], config_dir: Path) -> tuple[list[str], str | None]:
    """Replaces ``--config=NAME`` by the path absl needs, and puts it first.

    Args:
      argv: program name and arguments, with ``--config=NAME`` or ``--config NAME``.
      config_dir: where the named configs are.

    Returns:
      The new arguments, and the name as it was given (None when it was not).

    Raises:
      UserError: the config is unknown or given twice, or its name is missing.
    """
    rest, names = [argv[0]], []
    arguments = iter(argv[1:])
    for argument in arguments:
        match = _FLAG.match(argument)
        if match is None:
            rest.append(argument)
            continue
        value = match["value"]
        value = next(arguments, "") if value is None else value
        names.append(value)
    if not names:
        return rest, None
    if len(names) > 1 or not names[0]:
        raise UserError("give --config=NAME once; run.py --list shows the names")
    path, variant = resolve(names[0], config_dir)
    flag = f"--config={path}:{variant}" if variant else f"--config={path}"
    return [rest[0], flag, *rest[1:]], names[0]
