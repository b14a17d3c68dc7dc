"""Training-aware NAS (EfficientNetV2, Sec. 3.2): propose, train briefly, score, again.

What comes next is a function of the seed and of the finished candidates' lines, so the
same command goes on after a kill (``search_directory``).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

from etils import epath

from effnetv2.search_algorithms import Evaluated, check_algorithm, propose
from effnetv2.search_candidates import (
    Reference,
    evaluate_candidate,
    make_reference,
    network_recipe,
    search_recipe,
)
from effnetv2.search_directory import (
    CANDIDATES,
    RETRAINED,
    Settings,
    finish,
    opened,
    read_rows,
    run_directory,
)
from effnetv2.search_report import write_search_report
from effnetv2.search_space import (
    Genotype,
    SearchSpace,
    encode,
    make_space,
    parse_genotype,
)
from nfnets.errors import UserError
from nfnets.training import processes
from nfnets.training.metrics import Row
from nfnets.training.recipe import Recipe
from nfnets.training.run_data import open_split

# Tries of a candidate that the machine, not the network, keeps from being trained.
ATTEMPTS = 3
# Networks that fail in a row before the search suspects the machine.
FAILURES = 3


@dataclasses.dataclass(frozen=True)
class Search:
    """A search that has its data, its space and its directory.

    Attributes:
      settings: what the user asked for.
      directory: where it is kept.
      space: of networks.
      recipe: of the backbone; candidates differ from it in the network alone.
      num_classes: of the data.
      make_backbone: compiles the backbone's step, once.
      log: is told a line per candidate.
      stop_requested: asked after every step.
      command: for the report, as it was typed.
    """

    settings: Settings
    directory: epath.Path
    space: SearchSpace
    recipe: Recipe
    num_classes: int
    make_backbone: Callable[[], Reference]
    log: Callable[[str], None]
    stop_requested: Callable[[], bool]
    command: str


def open_search(
    settings: Settings,
    directory: epath.Path,
    *,
    log: Callable[[str], None] = print,
    stop_requested: Callable[[], bool] = lambda: False,
    command: str = "",
) -> Search:
    """Checks the settings against space and data; nothing is compiled or written.

    Raises:
      UserError: the backbone, the data or a setting cannot be used.
    """
    backbone = settings.backbone
    space = make_space(backbone.stages)
    train = open_split(settings.recipe, "train")
    holdout = 0
    if settings.recipe.data.holdout:
        holdout = len(open_split(settings.recipe, "holdout"))
    recipe = search_recipe(
        settings.recipe, settings.steps, len(train) + holdout, holdout
    )
    recipe = network_recipe(recipe, backbone, backbone.stages)
    # Checked as if it had been given like this; what candidates change is valid.
    recipe = Recipe.from_config(recipe.to_dict())
    num_classes = recipe.data.num_classes or train.num_classes
    return Search(
        settings=settings,
        directory=epath.Path(directory),
        space=space,
        recipe=recipe,
        num_classes=num_classes,
        make_backbone=functools.cache(lambda: make_reference(recipe, num_classes)),
        log=log,
        stop_requested=stop_requested,
        command=command,
    )


def run_search(search: Search, candidates: int) -> bool:
    """Tries networks until there are so many; says whether there are.

    Raises:
      UserError: the directory is another search's, or in use; or the machine, the data
        or the settings let no candidate be trained.
    """
    algorithm, space = search.settings.algorithm, search.space
    check_algorithm(algorithm, space, candidates)
    with opened(search.directory, search.settings, search.log):
        rows = read_rows(search.directory)
        say_start(search, len(rows), candidates)
        first = len(rows)
        while len(rows) < candidates:
            genotype = propose(algorithm, space, [evaluated(space, r) for r in rows])
            about = {"index": len(rows)}
            seed = search.recipe.seed
            row = try_candidate(search, genotype, CANDIDATES, about, seed=seed)
            if row is None:
                return False
            rows.append(row)
            search.log(candidate_line(rows))
            check_failures(search, rows[first:])
        write_report(search)
    return True


def say_start(search: Search, done: int, candidates: int) -> None:
    """Says what is searched, and where it goes on."""
    settings, recipe = search.settings, search.recipe
    algorithm = settings.algorithm
    search.log(
        f"space    {search.space.size:,} networks around {settings.backbone.name}; "
        f"{algorithm.name}, seed {algorithm.seed}"
    )
    search.log(
        f"each     {recipe.total_steps} steps of {recipe.batch_size} images at "
        f"{recipe.train_image_size} px, scored on {recipe.data.holdout:g} images that "
        f"are kept from training"
    )
    search.log(f"devices  {settings.device}")
    if done:
        search.log(f"resume   {done} of {candidates} candidates are finished")


def try_candidate(
    search: Search, genotype: Genotype, name: str, about: Row, *, seed: int
) -> Row | None:
    """Evaluates a network, writes its line and the report; None when interrupted.

    Args:
      search: it belongs to.
      genotype: of the network.
      name: file of the line, ``CANDIDATES`` or ``RETRAINED``.
      about: first entries of the line; they say in which directory it trains.
      seed: of training.

    Raises:
      UserError: for the third time in a row.
    """
    stages = encode(search.space, genotype)
    recipe = network_recipe(search.recipe, search.settings.backbone, stages)
    for attempt in range(1, ATTEMPTS + 1):
        if processes.total(int(search.stop_requested())):
            return None
        try:
            row = evaluate_candidate(
                dataclasses.replace(recipe, seed=seed),
                run_directory(search.directory, name, about),
                search.make_backbone,
                search.num_classes,
                search.stop_requested,
            )
            break
        except UserError as error:
            if attempt == ATTEMPTS:
                raise
            search.log(f"again    {' '.join(str(error).split())}")
    if row is None:
        return None
    described = {"genotype": [str(c) for c in genotype], "stages": list(stages)}
    row = finish(search.directory, name, about | described | row)
    write_report(search)
    return row


def check_failures(search: Search, rows: Sequence[Row]) -> None:
    """Raises UserError where, of those tried now, so many failed in a row."""
    last = rows[-FAILURES:]
    if len(last) == FAILURES and all(row["status"] == "failed" for row in last):
        raise UserError(
            f"the last {FAILURES} candidates failed ({last[-1]['reason']}); the same "
            "command goes on with the next; if the machine did it, remove their lines "
            f"from {search.directory / CANDIDATES} and their folders before"
        )


def write_report(search: Search) -> None:
    """Writes the report anew; what keeps it from being written ends nothing."""
    rows = read_rows(search.directory)
    retrained = read_rows(search.directory, RETRAINED)

    def write() -> None:
        try:
            write_search_report(
                search.directory,
                search.settings,
                search.recipe,
                rows,
                retrained,
                space_size=search.space.size,
                command=search.command,
            )
        except (UserError, ImportError) as error:
            search.log(f"no report: {error}")

    processes.on_main(write)


def evaluated(space: SearchSpace, row: Row) -> Evaluated:
    """A line of the history, for the algorithm."""
    return Evaluated(parse_genotype(space, row["genotype"]), row["reward"])


def candidate_line(rows: Sequence[Row]) -> str:
    """What is said of the last candidate."""
    row = rows[-1]
    if row["status"] != "ok":
        return f"{row['index']:<8} {row['status']}: {row['reason']}"
    best = max(rows, key=lambda r: r["reward"])
    return (
        f"{row['index']:<8} reward {row['reward']:.4f}  "
        f"accuracy {row['accuracy']:.2%}  "
        f"step time x{row['step_time']:.3f}  parameters x{row['params']:.3f}  "
        f"{row['train_seconds']:.0f} s  (best: {best['index']}, {best['reward']:.4f})"
    )
