"""Whether what a search found holds: the best and the median, from another seed."""

from __future__ import annotations

from collections.abc import Sequence

from effnetv2.search import Search, check_failures, try_candidate
from effnetv2.search_directory import RETRAINED, device_name, opened, read_rows
from effnetv2.search_space import parse_genotype
from nfnets.errors import UserError
from nfnets.training.metrics import Row


def retrain(search: Search, *, top: int, seed: int) -> list[Row] | None:
    """Trains the best networks and the median one anew, from another seed.

    Their step times are measured again too. What was retrained with this seed before
    is kept.

    Args:
      search: has finished candidates.
      top: how many of the best.
      seed: of training.

    Returns:
      A row for each network, with its ``role``; None when interrupted.
    """
    if seed == search.recipe.seed or not 0 <= seed < 2**32:
        raise UserError(
            f"--seed={seed}: expected 0 to 2**32 - 1, and not {search.recipe.seed}, "
            "the seed that the candidates had"
        )
    if device_name() != search.settings.device:
        raise UserError(
            f"{search.directory} is a search on {search.settings.device}, this is "
            f"{device_name()}, where steps take another time; retrain there"
        )
    with opened(search.directory, search.settings, search.log):
        candidates = read_rows(search.directory)
        done = {
            (row["index"], row["seed"]): row
            for row in read_rows(search.directory, RETRAINED)
            if row["status"] != "failed"
        }
        found: list[Row] = []
        for role, first in chosen(candidates, top):
            row = done.get((first["index"], seed))
            if row is None:
                about = {
                    "role": role,
                    "index": first["index"],
                    "seed": seed,
                    "first_reward": first["reward"],
                }
                genotype = parse_genotype(search.space, first["genotype"])
                row = try_candidate(search, genotype, RETRAINED, about, seed=seed)
            if row is None:
                return None
            found.append(row | {"role": role})
            search.log(retrained_line(found[-1]))
            check_failures(search, found)
    return found


def chosen(rows: Sequence[Row], top: int) -> list[tuple[str, Row]]:
    """The ``top`` best by reward, and the one in the middle (of two the worse).

    Returns:
      Role and row of each; one that is among the best and in the middle comes once.
    """
    trained = [row for row in rows if row["status"] == "ok"]
    ranked = sorted(trained, key=lambda row: -row["reward"])
    if not ranked:
        raise UserError("no network of this search has a reward yet; search first")
    if not 1 <= top <= len(ranked):
        raise UserError(
            f"--top={top}: there are {len(ranked)} networks with a reward; give at "
            "least 1, and no more than that"
        )
    best = [(f"rank {i}", row) for i, row in enumerate(ranked[:top], start=1)]
    middle = len(ranked) // 2
    if middle < top:
        best[middle] = (f"rank {middle + 1} and median", ranked[middle])
        return best
    return [*best, ("median", ranked[middle])]


def retrained_line(row: Row) -> str:
    """What is said of a retrained network."""
    numbers = f"reward {row['reward']:.4f} (at first {row['first_reward']:.4f})"
    if row["status"] == "ok":
        numbers += (
            f", accuracy {row['accuracy']:.2%}, step time x{row['step_time']:.3f}"
        )
    return f"{row['role']:<8} candidate {row['index']}, seed {row['seed']}: {numbers}"
