"""The fault matrix in short; `python tests/faults.py` runs all of it.

What the other tests do already is left out here: kills and signals of one process
(test_run) and of several, layouts (test_processes), checkpoints file by file
(test_checkpoint), images (test_odd_images), pickles (test_weights_pickles), ImageNet
(test_prepare).
"""

import random

import pytest
from fault_rows import ROWS
from fault_trials import Lab
from real_program import program_in

# On damaged files orbax leaves futures behind that complain when collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

# Row, faults where their number can be chosen, and which of its trials.
SHORT = (
    ("R3", 2, ""),
    ("R5", 0, "during a save"),
    ("R6", 0, "at save 2"),
    ("R7", 0, "a read-only folder"),
    ("R8", 5, "flip"),
    ("R8", 0, "empty"),
    ("R11", 0, "no coordinator"),
    ("R11", 0, "two and three processes"),
    ("R12", 0, "process 1 is stopped"),
    ("R13", 0, "on one of four devices"),
    ("R15", 0, "label 4294967296"),
    ("R16", 1003, "1003 examples on 3 devices by 250"),
    ("R16", 1003, "two processes of 2 devices by 64"),
    ("R17", 300, "mutations of"),
    ("R20", 0, "an evaluation image of process 1"),
)


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    return Lab(home, program_in(home), random.Random())


def test_every_row_of_the_matrix_is_there():
    assert [row.id for row in ROWS] == [f"R{i}" for i in range(1, 21)]


@pytest.mark.parametrize(("row", "count", "name"), SHORT)
def test_nothing_is_lost(lab, tmp_path, row, count, name):
    (found,) = [each for each in ROWS if each.id == row]
    trials = [trial for trial in found.trials(lab, count) if name in trial.name]
    assert trials
    for number, trial in enumerate(trials):
        directory = tmp_path / str(number)
        directory.mkdir()
        assert trial.run(directory) > 0
