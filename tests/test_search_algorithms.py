"""Random search and regularised evolution, on rewards that cost nothing."""

import dataclasses

import numpy as np
import pytest

from effnetv2.backbones import load_backbone
from effnetv2.search_algorithms import (
    Algorithm,
    Evaluated,
    check_algorithm,
    choose_parent,
    propose,
)
from effnetv2.search_space import DECISIONS, backbone_genotype, make_space, sample
from nfnets.errors import UserError

SPACE = make_space(load_backbone("effnet_b4").stages)  # 8.3e10 networks
PLANTED = sample(SPACE, np.random.default_rng(123))


def agreement(genotype):
    """Share of the 28 decisions that are the planted network's."""
    same = [
        getattr(mine, decision) == getattr(theirs, decision)
        for mine, theirs in zip(genotype, PLANTED, strict=True)
        for decision in DECISIONS
    ]
    return sum(same) / len(same)


def search(algorithm, budget):
    history = []
    while len(history) < budget:
        genotype = propose(algorithm, SPACE, history)
        history.append(Evaluated(genotype, agreement(genotype)))
    return history


def algorithm(name="evolution", **changes):
    plain = Algorithm(name=name, population=20, tournament=5, seed=0)
    return dataclasses.replace(plain, **changes)


@pytest.fixture(scope="module")
def histories():
    """300 networks by either algorithm, from each of 8 seeds."""
    return {
        name: [search(algorithm(name, seed=seed), 300) for seed in range(8)]
        for name in ("evolution", "random")
    }


def best(history):
    """Decisions of 28 that the best has in common with the planted network."""
    return round(28 * max(e.reward for e in history))


def test_evolution_finds_a_planted_optimum_and_random_search_does_not(histories):
    """26 or 27 of 28 decisions from every seed; random search: 19 to 21."""
    assert min(map(best, histories["evolution"])) >= 26
    assert max(map(best, histories["random"])) <= 21


def test_evolution_gets_far_earlier_than_random_search(histories):
    """Until 21 of 28 agree: 8 to 75 networks; random search: one seed of eight in 300.

    (That seed has it among the random networks that evolution begins with, too.)
    """

    def reached(history, budget):
        return best(history[:budget]) >= 21

    assert all(reached(history, 100) for history in histories["evolution"])
    assert sum(reached(history, 300) for history in histories["random"]) <= 2


@pytest.mark.parametrize("name", ["random", "evolution"])
def test_what_comes_next_follows_from_seed_and_history(name):
    whole = search(algorithm(name), 60)
    for done in (0, 1, 19, 20, 21, 45):
        assert propose(algorithm(name), SPACE, whole[:done]) == whole[done].genotype
    other = search(algorithm(name, seed=1), 60)
    assert [e.genotype for e in other[1:]] != [e.genotype for e in whole[1:]]


def test_the_backbone_comes_first_and_nothing_comes_twice():
    space = make_space(["r1_k3_s1_e1_i8_o8_c1"])  # 24 networks
    for name in ("random", "evolution"):
        history = []
        while len(history) < space.size:
            chosen = propose(algorithm(name, population=3), space, history)
            history.append(Evaluated(chosen, 0.0))
        assert history[0].genotype == backbone_genotype(space)
        assert len({e.genotype for e in history}) == space.size


def test_only_the_youngest_have_children():
    """Regularised evolution: the best of all has died, of old age."""
    rng = np.random.default_rng(0)
    history = [Evaluated(sample(SPACE, rng), 1.0 / (1 + i)) for i in range(30)]
    parents = {
        choose_parent(history, algorithm(population=5), np.random.default_rng(seed))
        for seed in range(50)
    }
    alive = [e.genotype for e in history[-5:]]
    assert parents <= set(alive)
    # With S much larger than P the best of the living is all but sure to be drawn.
    certain = algorithm(population=5, tournament=200)
    assert choose_parent(history, certain, rng) == alive[0]


def test_numbers_that_make_no_search_are_refused():
    space = make_space(["r1_k3_s1_e1_i8_o8_c1"])
    check_algorithm(algorithm(), space, 24)
    with pytest.raises(UserError, match="expected 1 to 24, "):
        check_algorithm(algorithm(), space, 25)
    with pytest.raises(UserError, match="population is 0"):
        check_algorithm(algorithm(population=0), space, 5)
    with pytest.raises(UserError, match="--seed=-1 of the search"):
        check_algorithm(algorithm(seed=-1), space, 5)
