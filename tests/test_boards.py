"""Where rows go beside metrics.jsonl, with a W&B that is made up, and what may fail."""

import sys
import types

import pytest
from etils import epath

from nfnets.errors import UserError
from nfnets.training.boards import open_boards


class FakeRun:
    def __init__(self, options, rows, fails):
        self.id, self.url = options["id"], "https://wandb.example/run"
        self.rows, self.fails, self.metrics, self.finished = rows, fails, [], 0

    def define_metric(self, name, step_metric):
        self.metrics.append((name, step_metric))

    def log(self, row):
        if self.fails:
            raise ConnectionError("the network\nis down")
        self.rows.append(row)

    def finish(self):
        self.finished += 1


class FakeWandb(types.ModuleType):
    """The functions of W&B that are called, and what they were given."""

    def __init__(self, *, has_key=True, fails=False):
        super().__init__("wandb")
        self.has_key, self.fails = has_key, fails
        self.logins, self.started, self.rows, self.runs = [], [], [], []

    def login(self, *, prompt):
        self.logins.append(prompt)
        return self.has_key

    def Settings(self, **values):
        return values

    def init(self, **options):
        self.started.append(options)
        self.runs.append(FakeRun(options, self.rows, self.fails))
        return self.runs[-1]


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens boards over a made-up W&B; gives them, it, and the list of messages."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    all_boards = []

    def opened(project="cars", **how):
        wandb, said = FakeWandb(**how), []
        monkeypatch.setitem(sys.modules, "wandb", wandb)
        directory = epath.Path(tmp_path)
        boards = open_boards(directory, {"seed": 0}, project, said.append)
        all_boards.append(boards)
        return boards, wandb, said

    yield opened
    for boards in all_boards:
        boards.close()


def test_nothing_is_sent_unless_asked_for(opened):
    boards, wandb, said = opened(project=None)
    boards.write(1, {"train/loss": 2.0})
    boards.close()
    assert wandb.started == wandb.logins == said == []


def test_rows_go_there_and_a_restart_goes_on_with_the_same_run(opened, tmp_path):
    boards, wandb, said = opened()
    assert wandb.started == []  # a run that is refused later leaves nothing there
    boards.write(20, {"train/loss": 2.0, "train/top1": None, "train/skipped_total": 0})
    boards.write(40, {"train/loss": 1.5})
    boards.close()
    assert wandb.rows == [
        {"step": 20, "train/loss": 2.0, "train/skipped_total": 0},
        {"step": 40, "train/loss": 1.5},
    ]
    (first,) = wandb.started
    wanted = {"project": "cars", "name": tmp_path.name, "config": {"seed": 0}}
    assert wanted.items() <= first.items()
    assert (first["mode"], first["resume"]) == ("online", "allow")
    assert wandb.logins == [False]  # not prompted
    assert wandb.runs[0].metrics == [("*", "step")]
    assert wandb.runs[0].finished == 1
    assert said == ["wandb    https://wandb.example/run"]

    again, wandb, _ = opened()
    again.write(30, {"event": "resumed"})
    again.write(40, {"train/loss": 1.25})
    assert wandb.started[0]["id"] == first["id"]
    assert wandb.rows[-1] == {"step": 40, "train/loss": 1.25}


def test_without_a_key_it_is_offline(opened):
    boards, wandb, said = opened(has_key=False)
    boards.write(1, {"train/loss": 2.0})
    assert wandb.started[0]["mode"] == "offline"
    assert said == [f"wandb    offline, run {wandb.started[0]['id']}"]


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_the_environment_decides(opened, monkeypatch, mode):
    boards, wandb, _ = opened()
    monkeypatch.setenv("WANDB_MODE", mode)
    boards.write(1, {"train/loss": 2.0})
    assert wandb.started[0]["mode"] == mode
    assert wandb.logins == []


def test_a_failure_is_said_once_and_the_other_board_goes_on(opened, tmp_path):
    boards, _, said = opened(fails=True)
    boards.write(1, {"train/loss": 2.0})
    (events,) = tmp_path.glob("events.*")
    size = events.stat().st_size
    for step in (2, 3):
        boards.write(step, {"train/loss": 1.0})
    boards.close()
    assert said[1:] == ["no W&B from here on: the network is down"]
    assert events.stat().st_size > size


def test_a_missing_package_is_said_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    message = r"--wandb_project=cars needs .*pip install 'nfnets-flax\[wandb\]'"
    with pytest.raises(UserError, match=message):
        open_boards(epath.Path(tmp_path), {}, "cars", print)
