"""Grids, shards, what is run again and what is not; nothing is trained here."""

import json
import types

import pytest
from etils import epath
from helpers import CONFIG_DIR

from nfnets.command_line import recipe_of_arguments
from nfnets.errors import UserError
from nfnets.sweep import directory as sweep_directory
from nfnets.sweep.axes import (
    axis,
    cell_name,
    cells_of,
    joint_axis,
    parse_axis,
    parse_shard,
)
from nfnets.sweep.grids import GRIDS
from nfnets.sweep.plan import contents_of, make_plan, plan_runs, split_arguments
from nfnets.sweep.runs import failed_runs, train_run, train_runs
from nfnets.training import workdir


def resolve(arguments):
    return recipe_of_arguments(arguments, CONFIG_DIR)


def planned(*grids, config="digits", fixed=(), name=None):
    plan = make_plan(name, config, tuple(fixed), grids)
    return plan, plan_runs(plan, resolve)


@pytest.mark.parametrize(
    ("text", "fields", "values"),
    [
        ("seed=0,1,2", ("seed",), (("0",), ("1",), ("2",))),
        ("optim.agc_clipping=None, 0.01", ("optim.agc_clipping",),
         (("None",), ("0.01",))),
        ("augment.crop_area=(0.08,1.0),(0.35,1.0)", ("augment.crop_area",),
         (("(0.08,1.0)",), ("(0.35,1.0)",))),
        ('optim.no_clip=("a,b",),()', ("optim.no_clip",), (('("a,b",)',), ("()",))),
        ('init_from="/a,b",/c', ("init_from",), (("/a,b",), ("/c",))),
        ("loss,bce_target_threshold=(softmax,None),(bce,0.2)",
         ("loss", "bce_target_threshold"), (("softmax", "None"), ("bce", "0.2"))),
    ],
)  # fmt: skip
def test_an_axis_is_read_as_it_is_typed(text, fields, values):
    parsed = parse_axis(text)
    assert (parsed.fields, parsed.values) == (fields, values)


@pytest.mark.parametrize("text", ["init_from=/it's,/b", "augment.crop_area=(0.1,1"])
def test_what_is_left_open_is_refused(text):
    with pytest.raises(UserError, match="is not closed"):
        parse_axis(text)


@pytest.mark.parametrize(
    "text",
    ["seed", "seed=", "=1", "seed=1,,2", "a,b=(1,2),(3)", "a,b=1,2", "a,a=(1,2)"],
)
def test_a_wrong_axis_is_refused(text):
    with pytest.raises(UserError, match="--grid="):
        parse_axis(text)


def test_the_grid_is_the_product_and_the_last_axis_is_fastest():
    cells = cells_of([axis("a", 1, 2), joint_axis(("b", "c"), (3, None), (4, 5))])
    assert [cell_name(cell) for cell in cells] == [
        "a=1,b=3,c=None",
        "a=1,b=4,c=5",
        "a=2,b=3,c=None",
        "a=2,b=4,c=5",
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_share_all_runs_without_overlap(count):
    runs = list(range(7))
    shards = [parse_shard(f"{i}/{count}") for i in range(count)]
    taken = [run for s in shards for run in runs[s.index :: s.count]]
    assert sorted(taken) == runs


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "1/0", ""])
def test_a_wrong_shard_is_refused(text):
    with pytest.raises(UserError, match="from 0 to n - 1"):
        parse_shard(text)


def test_settings_mean_what_they_mean_to_a_run():
    """None, tuples, numbers, a recipe as an axis: all by the program's own parser."""
    _, runs = planned(
        "config=digits,cifar10",
        "optim.agc_clipping=None,0.02",
        "augment.crop_area=(0.5,1.0)",
        config=None,
        fixed=[("num_epochs", "2")],
    )
    assert [r.recipe.name for r in runs] == ["digits", "digits", "cifar10", "cifar10"]
    assert [r.recipe.optim.agc_clipping for r in runs] == [None, 0.02] * 2
    assert {r.recipe.augment.crop_area for r in runs} == {(0.5, 1.0)}
    assert [r.recipe.total_steps for r in runs] == [44, 44, 781, 781]
    assert runs[1].arguments == (
        "--config=digits",
        "--config.num_epochs=2",
        "--config.optim.agc_clipping=0.02",
        "--config.augment.crop_area=(0.5,1.0)",
    )


@pytest.mark.parametrize(
    ("grids", "options", "message"),
    [
        (["seed=0,1,0"], {}, "are the same run"),
        (["optim.lr_end=0.1,1e-1"], {}, "are the same run"),
        (["sed=0,1"], {}, "sed=0: the config has no field"),
        (["batch_size=8,-8"], {}, "batch_size=-8: config.batch_size is -8"),
        (["model=resnet_none"], {}, "model=resnet_none: unknown model"),
        (["config=digits,nope"], {"config": None}, "config=nope: unknown config"),
        (["config=cifar10"], {}, "give --grid=config=digits"),
        (["seed=0"], {"fixed": [("seed", "1")]}, "give --grid=seed=1"),
        (["seed=0", "seed=1"], {}, "two --grid of seed"),
        ([], {}, "give --grid=FIELD"),
        (["seed=0"], {"config": None}, "give --config=NAME"),
        ([], {"name": "acg"}, "unknown grid 'acg'; did you mean agc"),
    ],
)
def test_mistakes_are_found_before_anything_runs(grids, options, message):
    with pytest.raises(UserError, match=message):
        planned(*grids, **options)


def test_config_flags_are_told_from_the_sweeps_own():
    rest, config, fixed = split_arguments(
        [
            "sweep.py",
            "--config=digits",
            "--grid=config=a,b",
            "--config.optim.momentum=0",
        ]
    )
    assert rest == ["sweep.py", "--grid=config=a,b"]
    assert (config, fixed) == ("digits", (("optim.momentum", "0"),))
    assert split_arguments(["sweep.py", "--config", "a"])[1] == "a"
    for wrong in (["--config.seed", "1"], ["--config=a", "--config=b"], ["--config="]):
        with pytest.raises(UserError):
            split_arguments(["sweep.py", *wrong])


def test_axes_of_a_named_grid_are_replaced_in_place():
    plan = make_plan(
        "agc",
        "cifar10",
        (("num_epochs", "1"),),
        ["batch_size=64,128", "model=nf_resnet50,dm_resnet50"],
    )
    assert plan.config == "cifar10"
    assert [a.fields for a in plan.axes] == [
        ("batch_size",),
        ("optim.agc_clipping",),
        ("seed",),
        ("model",),
    ]
    assert plan.axes[0].values == (("64",), ("128",))
    assert dict(plan.fixed) == {
        "optim.no_clip": '("^head/kernel$",)',
        "num_epochs": "1",
    }
    # An axis of several fields goes as a whole.
    plan = make_plan("rsb_loss", "digits", (), ["loss=bce"])
    assert [a.fields for a in plan.axes] == [("loss",), ("seed",)]


@pytest.mark.parametrize("name", GRIDS)
def test_every_named_grid_is_of_valid_recipes(name):
    plan = make_plan(name, None, (), ())
    runs = plan_runs(plan, resolve)
    assert len(runs) == len(cells_of(plan.axes))


def test_the_agc_grid_is_the_papers():
    plan = make_plan("agc", None, (), ())
    runs = plan_runs(plan, resolve)
    assert len(runs) == 30
    assert {r.recipe.batch_size for r in runs} == {256, 512, 1024, 2048, 4096}
    thresholds = {r.recipe.optim.agc_clipping for r in runs}
    assert thresholds == {None, 0.01, 0.02, 0.04, 0.08, 0.16}
    assert {r.recipe.model for r in runs} == {"nf_resnet50"}
    assert {r.recipe.optim.no_clip for r in runs} == {("^head/kernel$",)}
    # The learning rate is proportional to the batch (Sec. 4.1): 0.1 for 256.
    assert {r.recipe.peak_lr / r.recipe.batch_size for r in runs} == {0.1 / 256}


class Fake:
    """Training that ends as it is told: a list of exit statuses per run."""

    def __init__(self, **endings):
        self.endings = endings
        self.calls = []

    def __call__(self, run, folder):
        self.calls.append(run.name)
        left = self.endings.get(run.name.replace("=", "_"), [0])
        status = left.pop(0) if left else 0
        (folder / "config.json").write_text(json.dumps(run.recipe.to_dict()))
        (folder / "metrics.jsonl").write_text('{"step": 1}\n')
        (folder / "output.txt").write_text(f"error: status {status}\n")
        return status


def go(directory, runs, train, stop=lambda: False):
    lines = []
    ended = train_runs(
        directory, runs, train=train, stop_requested=stop, log=lines.append
    )
    return ended, lines


@pytest.fixture
def sweep(tmp_path):
    """A claimed directory of four seeds."""
    plan, runs = planned("seed=0,1,2,3")
    sweep_directory.make(tmp_path)
    sweep_directory.claim(tmp_path, contents_of(plan, runs, "first"))
    return tmp_path, runs


def outcome(directory, name):
    return sweep_directory.read_outcome(sweep_directory.run_directory(directory, name))


def test_a_divergence_is_a_result_and_a_failure_is_tried_twice(sweep):
    directory, runs = sweep
    train = Fake(seed_0=[3], seed_1=[1, 0], seed_2=[76, -9])
    ended, lines = go(directory, runs, train)
    assert ended
    assert train.calls == [f"seed={i}" for i in (0, 1, 1, 2, 2, 3)]
    statuses = [outcome(directory, run.name).status for run in runs]
    assert statuses == ["diverged", "ok", "failed", "ok"]
    assert outcome(directory, "seed=2").exit_status == -9
    assert outcome(directory, "seed=0").reason == "status 3"
    assert failed_runs(directory, runs) == ["seed=2"]
    assert any("exit status 76" in line for line in lines)
    # Again: what failed is tried again, what is finished is left alone.
    train = Fake()
    assert go(directory, runs, train)[0]
    assert train.calls == ["seed=2"]
    assert failed_runs(directory, runs) == []


def test_an_interrupted_run_is_gone_on_with_and_its_time_adds_up(sweep):
    directory, runs = sweep
    train = Fake(seed_1=[75])
    assert not go(directory, runs, train)[0]
    assert train.calls == ["seed=0", "seed=1"]
    first = outcome(directory, "seed=1")
    assert first.status == "interrupted"
    train = Fake()
    assert go(directory, runs, train)[0]
    assert train.calls == ["seed=1", "seed=2", "seed=3"]
    assert outcome(directory, "seed=1").seconds > first.seconds


def test_a_signal_stops_before_the_next_run_and_hides_no_status(sweep):
    directory, runs = sweep
    assert not go(directory, runs, Fake(), stop=lambda: True)[0]
    stopping = []

    def killed_while_starting(run, folder):
        stopping.append(run)
        return -15

    assert not go(directory, runs, killed_while_starting, stop=lambda: bool(stopping))[
        0
    ]
    assert outcome(directory, "seed=0").status == "interrupted"
    assert len(stopping) == 1


def test_a_mistake_stops_the_sweep_with_the_runs_line(sweep):
    directory, runs = sweep
    train = Fake(seed_1=[2])
    with pytest.raises(UserError, match=r"^seed=1: status 2$"):
        go(directory, runs, train)
    assert train.calls == ["seed=0", "seed=1"]
    assert outcome(directory, "seed=1") is None


def test_a_recipe_that_was_edited_since_is_refused(sweep):
    directory, runs = sweep
    go(directory, runs, Fake())
    _, edited = planned("seed=0,1,2,3", fixed=[("optim.momentum", "0.8")])
    with pytest.raises(UserError, match=r"optim.momentum: 0.9 -> 0.8"):
        go(directory, edited, Fake())
    _, faster = planned("seed=0,1,2,3", fixed=[("data.threads", "3")])
    train = Fake()
    go(directory, faster, train)
    assert train.calls == []


def claimed(directory, *grids, **options):
    plan, runs = planned(*grids, **options)
    return sweep_directory.claim(directory, contents_of(plan, runs, "again"))


def test_runs_can_be_added_along_the_same_axes_only(sweep):
    directory, runs = sweep
    go(directory, runs[:1], Fake())
    contents = claimed(directory, "seed=3,4,5")
    assert [dict(cell)["seed"] for cell in contents.runs] == list("012345")
    assert contents == sweep_directory.read_contents(directory)
    claimed(directory, "seed=0", fixed=[("data.threads", "3")])
    with pytest.raises(UserError, match=r"fixed.num_epochs: absent -> 3"):
        claimed(directory, "seed=0", fixed=[("num_epochs", "3")])
    with pytest.raises(UserError, match="axes"):
        claimed(directory, "seed=0", "batch_size=8,16")
    with pytest.raises(UserError, match="config: digits -> cifar10"):
        claimed(directory, "seed=0", config="cifar10")
    with pytest.raises(UserError, match=r"seed=00 is in the sweep as seed=0"):
        claimed(directory, "seed=00")
    assert len(sweep_directory.read_contents(directory).runs) == 6


def test_a_sweep_that_has_not_begun_is_replaced(sweep):
    directory, _ = sweep
    contents = claimed(directory, "batch_size=8,16", fixed=[("num_epochs", "3")])
    assert [cell_name(cell) for cell in contents.runs] == [
        "batch_size=8",
        "batch_size=16",
    ]


def test_directories_are_readable_and_never_shared():
    assert sweep_directory.folder_name("model=a,seed=0") == "model=a,seed=0"
    names = [
        "source=folder:/a/b",
        "source=folder:/a_b",
        "source=folder__a_b",
        "x" * 300,
    ]
    folders = [sweep_directory.folder_name(name) for name in names]
    assert len(set(folders)) == len(folders)
    assert all("/" not in f and ":" not in f and len(f) < 200 for f in folders)


def test_what_no_sweep_can_use_is_said(tmp_path):
    with pytest.raises(UserError, match="holds no sweep"):
        sweep_directory.read_contents(tmp_path)
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(UserError, match="cannot read"):
        sweep_directory.read_contents(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the sweep directory"):
        sweep_directory.make(tmp_path / "file")


def test_a_run_whose_lock_cannot_be_opened_is_not_taken_for_one_in_use(tmp_path):
    run = epath.Path(tmp_path)
    assert not sweep_directory.is_in_use(run)
    with workdir.locked(run):
        assert sweep_directory.is_in_use(run)
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=r"cannot lock .*: Is a directory"):
        sweep_directory.is_in_use(run)


@pytest.mark.parametrize(("loss", "status"), [(2.3, "ok"), (None, "diverged")])
def test_a_run_that_ends_with_a_loss_that_is_not_finite_diverged(
    tmp_path, loss, status
):
    """Few steps end before ``max_nonfinite_steps``, with the status of success."""

    def train(run, folder):
        row = {"step": 4, "eval/top1": 0.1, "eval/loss": loss}
        workdir.append_row(folder, row)
        return 0

    run = types.SimpleNamespace(name="a_run")
    outcome = train_run(tmp_path, run, train, lambda: False, print)
    assert outcome.status == status
