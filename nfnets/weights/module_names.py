"""How another program names the modules of one of our families, in its order."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

Path = tuple[str, ...]  # collection, modules, parameter: ("params", "head", "kernel")
Modules = Mapping[
    str, str
]  # our submodule path, joined by "/", to theirs; in its order

_BLOCK = re.compile(r"(?:stage(\d+)_)?block(\d+)")


@dataclasses.dataclass(frozen=True)
class ModuleNames:
    """The modules of one family."""

    before: Modules  # the blocks
    # What goes before the names inside a block: of its stage and number, from 0 (the
    # stage is 0 where blocks are just numbered).
    block: Callable[[int, int], str]
    # Of the modules inside a block: the first table that has all of a block's.
    kinds: tuple[Modules, ...]
    after: Modules


def pair_modules(
    names: ModuleNames, paths: Iterable[Path]
) -> Iterator[tuple[str, dict[str, Path]]]:
    """For each of their modules, in their order: its name, and our leaves by name."""
    ours: dict[str, dict[str, Path]] = {}  # by module, then by leaf
    for path in paths:
        ours.setdefault("/".join(path[1:-1]), {})[path[-1]] = path
    for module, theirs in names.before.items():
        if module in ours:  # a changed stem may lack some
            yield theirs, ours[module]
    blocks: dict[tuple[int, int, str], set[str]] = {}  # by stage, number and name
    for module in ours:
        first, _, inner = module.partition("/")
        if match := _BLOCK.fullmatch(first):
            key = (int(match[1] or 1), int(match[2]), first)
            blocks.setdefault(key, set()).add(inner)
    for (stage, block, name), modules in sorted(blocks.items()):
        kind = next(kind for kind in names.kinds if modules <= kind.keys())
        prefix = names.block(stage - 1, block)
        for inner, theirs in kind.items():
            if inner in modules:
                yield f"{prefix}{theirs}", ours[f"{name}/{inner}"]
    for module, theirs in names.after.items():
        yield theirs, ours[module]
