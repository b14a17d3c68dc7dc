"""What to try next: random search and regularised evolution, as pure functions.

The next network is a function of (seed, history) alone, so a search that was killed
goes on as if it had not been.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from effnetv2.search_space import (
    Genotype,
    SearchSpace,
    backbone_genotype,
    mutate,
    sample,
)
from nfnets.errors import UserError

# Differs: the paper searches by reinforcement learning or at random; here evolution
# stands for the former.


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """How networks are proposed.

    Attributes:
      name: ``random``, or ``evolution``: regularised evolution (arXiv 1802.01548).
      population: P, networks alive at a time; the oldest dies for each new one.
      tournament: S, drawn from the living; the best of them has the child.
      seed: of all draws.
    """

    name: Literal["random", "evolution"]
    population: int
    tournament: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A network that was tried, and what it got."""

    genotype: Genotype
    reward: float


def check_algorithm(algorithm: Algorithm, space: SearchSpace, candidates: int) -> None:
    """Raises UserError for numbers that make no search."""
    for name in ("population", "tournament"):
        if getattr(algorithm, name) < 1:
            raise UserError(
                f"--{name} is {getattr(algorithm, name)}, expected 1 or more"
            )
    if algorithm.seed < 0:
        raise UserError(f"--seed={algorithm.seed} of the search: expected 0 or more")
    if not 1 <= candidates <= space.size:
        raise UserError(
            f"--candidates={candidates}: expected 1 to {space.size}, for the space has "
            "so many networks, and each is tried once"
        )


def propose(
    algorithm: Algorithm, space: SearchSpace, history: Sequence[Evaluated]
) -> Genotype:
    """The network to try after ``history``; never one that was tried.

    The first one is the backbone, by which the others are measured.

    Args:
      algorithm: with its seed.
      space: has networks left that are not in ``history``.
      history: all that were tried, in order, failures (of reward 0) included.
    """
    if not history:
        return backbone_genotype(space)
    rng = np.random.default_rng([algorithm.seed, len(history)])
    tried = {evaluated.genotype for evaluated in history}
    if algorithm.name == "random" or len(history) < algorithm.population:
        proposed = sample(space, rng)
        while proposed in tried:
            proposed = sample(space, rng)
        return proposed
    parent = choose_parent(history, algorithm, rng)
    proposed = mutate(space, parent, rng)
    # Differs: regularised evolution may try a network twice; training costs too much
    # here, so a child that was tried is changed again.
    while proposed in tried:
        proposed = mutate(space, proposed, rng)
    return proposed


def choose_parent(
    history: Sequence[Evaluated], algorithm: Algorithm, rng: np.random.Generator
) -> Genotype:
    """The best of S drawn, with replacement, from the youngest P."""
    alive = history[-algorithm.population :]
    drawn = rng.integers(len(alive), size=algorithm.tournament)
    # Of equal ones the youngest.
    return max((alive[i] for i in sorted(drawn, reverse=True)), key=_reward).genotype


def _reward(evaluated: Evaluated) -> float:
    return evaluated.reward
