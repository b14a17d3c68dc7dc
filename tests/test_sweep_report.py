"""Statistics against hand calculation, CSV, tables and pictures of made-up runs."""

import csv
import json

import pytest
from PIL import Image

from nfnets.errors import UserError
from nfnets.sweep import directory as sweep_directory
from nfnets.sweep.axes import axis, cell_name, cells_of, joint_axis
from nfnets.sweep.directory import Contents, Outcome
from nfnets.sweep.grid_pictures import values_along
from nfnets.sweep.report import percent, write_report
from nfnets.sweep.results import (
    Summary,
    accuracies,
    numeric_axes,
    read_results,
    summarise,
)


def contents_of(*axes):
    return Contents(
        command="python experiments/sweep.py --grid=...",
        grid=None,
        config="digits",
        fixed={"num_epochs": "2"},
        axes=tuple(a.fields for a in axes),
        runs=tuple(cells_of(axes)),
    )


def evaluation(step, top1, **more):
    return {
        "step": step,
        "epoch": step / 10,
        "eval/top1": top1,
        "eval/top5": 1.0,
        "eval/loss": 0.5,
        "eval/examples": 1000,
        **more,
    }


def write_run(directory, name, rows, status="ok", reason="", evaluations=None):
    run = sweep_directory.run_directory(directory, name)
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if status is not None:
        exit_status = {"ok": 0, "diverged": 3, "failed": 1, "interrupted": 75}[status]
        outcome = Outcome(status, exit_status, 12.5, reason)
        sweep_directory.write_outcome(run, outcome)
    if evaluations is not None:
        (run / "evaluations.json").write_text(json.dumps(evaluations))


@pytest.fixture
def sweep(tmp_path):
    """Two models of four and three seeds, of which one diverged and one is going on."""
    contents = contents_of(axis("model", "a", "b"), axis("seed", 0, 1, 2, 3))
    sweep_directory.make(tmp_path)
    sweep_directory.claim(tmp_path, contents)
    for seed, top1 in enumerate((0.75, 0.77, 0.82)):
        rows = [
            {"step": 5, "epoch": 0.5, "train/images_per_second": 100.0},
            {"step": 10, "epoch": 1.0, "train/images_per_second": 300.0},
            {"step": 15, "epoch": 1.5, "train/images_per_second": 200.0},
            evaluation(10, 0.99),  # better than the last, which counts
            evaluation(20, top1, **{"eval_ema/top1": top1 + 0.125}),
        ]
        sets = {
            "val": {"top1": top1 - 0.25, "top5": 0.5, "examples": 50, "step": 20},
            "v2": {"top1": top1 - 0.5, "top5": 0.5, "examples": 10, "step": 20},
        }
        for values in sets.values():
            values["ema"] = {"top1": values["top1"] + 0.125, "examples": 10}
        if seed == 2:
            sets["v2"]["step"] = 10
        write_run(tmp_path, f"model=a,seed={seed}", rows, evaluations=sets)
    reason = "21 updates in a row were not finite"
    write_run(tmp_path, "model=a,seed=3", [evaluation(10, 0.1)], "diverged", reason)
    write_run(tmp_path, "model=b,seed=0", [evaluation(20, 0.625)])
    write_run(tmp_path, "model=b,seed=1", [evaluation(10, 0.5)], "interrupted")
    write_run(tmp_path, "model=b,seed=2", [evaluation(10, 0.5)], "failed", "no memory")
    return tmp_path, contents


def test_statistics_are_those_of_a_hand_calculation(sweep):
    results = read_results(*sweep)
    a, b = summarise(results, "eval/top1")
    assert a.setting == (("model", "a"),)
    # (75 + 77 + 82) / 3 = 78; deviations -3, -1, 4; 26 / 2 = 13.
    assert a.n == 3
    assert a.mean == pytest.approx(0.78, abs=1e-15)
    assert a.std == pytest.approx(13**0.5 / 100, abs=1e-15)
    assert (a.low, a.high) == (0.75, 0.82)
    assert a.counts["diverged"] == 1
    # One run has no spread; what is not finished is counted, and in no mean.
    assert (b.n, b.mean, b.std, b.low, b.high) == (1, 0.625, None, 0.625, 0.625)
    assert b.counts == {
        "ok": 1,
        "diverged": 0,
        "failed": 1,
        "unfinished": 1,
        "not started": 1,
    }
    (a, _) = summarise(results, "v2_ema/top1")
    assert (a.n, a.low, a.high) == (2, 0.375, pytest.approx(0.395))
    (a, b) = summarise(results, "eval_ema/top1")
    assert a.mean == pytest.approx(0.905)
    assert (b.n, b.mean) == (0, None)


def test_other_sets_count_where_the_last_checkpoint_was_evaluated(sweep):
    results = read_results(*sweep)
    sets = ["val/top1", "val_ema/top1", "v2/top1", "v2_ema/top1"]
    assert accuracies(results) == ["eval/top1", "eval_ema/top1", *sets]
    val, v2 = (summarise(results, f"{name}/top1")[0] for name in ("val", "v2"))
    assert (val.n, val.mean) == (3, pytest.approx(0.53))
    assert (v2.n, v2.mean) == (2, pytest.approx(0.26))
    assert results[2].stale == ("v2",)


def test_the_report_says_it_all(sweep):
    directory, _ = sweep
    write_report(directory)
    report = (directory / "report.md").read_text()
    lines = report.splitlines()
    header = "| model | n | mean | std | min | max | diverged | failed | unfinished | "
    assert f"{header}not started |" in lines
    assert "| a | 3 | 78.00 | 3.61 | 75.00 | 82.00 | 1 | 0 | 0 | 0 |" in lines
    assert "| b | 1 | 62.50 | - | 62.50 | 62.50 | 0 | 1 | 1 | 1 |" in lines
    assert "- set for all runs: --config.num_epochs=2" in lines
    assert (
        "- 8 runs in 2 settings: 4 ok, 1 diverged, 1 failed, 1 unfinished, "
        "1 not started" in lines
    )
    assert (
        "- model=a,seed=3: diverged at step 10: 21 updates in a row were not finite"
        in lines
    )
    assert "- model=b,seed=2: failed at step 10: no memory" in lines
    assert any("model=a,seed=2: v2 was evaluated at another step" in x for x in lines)


def test_the_csv_reads_back(sweep):
    directory, contents = sweep
    write_report(directory)
    with (directory / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [cell_name(c) for c in contents.runs]
    results = read_results(directory, contents)
    for row, result in zip(rows, results, strict=True):
        assert (row["model"], row["seed"]) == tuple(v for _, v in result.cell)
        assert row["status"] == result.status
        for metric in ("eval/top1", "eval_ema/top1", "val/top1", "v2/top1"):
            value = float(row[metric]) if row[metric] else None
            assert value == result.metrics.get(metric)
    assert (rows[0]["seconds"], rows[0]["images_per_second"]) == ("12.5", "200.0")
    assert rows[0]["val/examples"] == "50"
    assert (rows[3]["step"], rows[3]["eval/top1"]) == ("10", "")


def test_a_row_that_is_being_written_is_left_out_and_a_damaged_one_refused(sweep):
    directory, contents = sweep
    metrics = directory / "runs" / "model=b,seed=1" / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + '{"step": 20, "eval/t')
    assert read_results(directory, contents)[5].step == 10
    metrics.write_text('{"step": 20, "eval/t\n' + whole)
    with pytest.raises(UserError, match="damaged"):
        read_results(directory, contents)


def pictures_of(directory):
    return {path.name for path in directory.glob("*.png")}


def test_pictures_are_drawn_where_there_is_something_for_them(sweep):
    directory, _ = sweep
    (directory / "lines.png").write_bytes(b"of an older report")
    written = write_report(directory)
    assert pictures_of(directory) == {
        "histogram.png",
        "spread_over_epochs.png",
        "val_against_v2.png",
    }
    assert {path.name for path in written} == {
        *pictures_of(directory),
        "report.md",
        "results.csv",
    }
    report = (directory / "report.md").read_text()
    for name in pictures_of(directory):
        assert f"]({name})" in report
        with Image.open(directory / name) as image:
            image.verify()


def test_a_sweep_without_a_finished_run_has_a_report(tmp_path):
    contents = contents_of(axis("batch_size", 8, 16), axis("seed", 0, 1))
    sweep_directory.make(tmp_path)
    sweep_directory.claim(tmp_path, contents)
    write_run(tmp_path, "batch_size=8,seed=0", [], "diverged", "at once")
    write_report(tmp_path)
    assert pictures_of(tmp_path) == {"lines.png"}
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert "| 8 | 0 | - | - | - | - | 1 | 1 |" in lines
    assert "| 16 | 0 | - | - | - | - | 0 | 2 |" in lines


def test_numeric_axes_are_told_from_others():
    axes = (
        axis("optim.agc_clipping", None, 0.01, 0.02),
        axis("model", "a", "b"),
        axis("batch_size", 8, 16),
        axis("num_epochs", 3),
        axis("seed", 0, 1),
        joint_axis(("loss", "bce_target_threshold"), ("bce", 0.1), ("bce", 0.2)),
        axis("eval.split", "test", "1"),
    )
    assert numeric_axes(contents_of(*axes)) == ["optim.agc_clipping", "batch_size"]


def test_two_numeric_axes_are_a_heat_map_and_lines(tmp_path, monkeypatch):
    """Read back from the picture's own objects: means, ticks, what diverged."""
    saved = {}

    def keep(figure, path):
        saved[path.name] = figure
        path.write_bytes(b"")
        return path

    monkeypatch.setattr("nfnets.sweep.grid_pictures.save_figure", keep)
    axes = (
        axis("batch_size", 64, 512, 4096),
        axis("optim.agc_clipping", None, 0.01),
        axis("seed", 0, 1),
    )
    contents = contents_of(*axes)
    sweep_directory.make(tmp_path)
    sweep_directory.claim(tmp_path, contents)
    tops = {("64", "None"): 0.5, ("512", "None"): 0.25, ("4096", "0.01"): 0.75}
    for cell in contents.runs:
        name, values = cell_name(cell), dict(cell)
        top1 = tops.get((values["batch_size"], values["optim.agc_clipping"]))
        if top1 is None:
            write_run(tmp_path, name, [evaluation(10, 0.1)], "diverged")
        else:
            write_run(tmp_path, name, [evaluation(20, top1 + 0.125 * int(name[-1]))])
    write_report(tmp_path)
    (lines,) = saved["lines.png"].axes
    assert lines.get_xscale() == "log"
    assert [t.get_text() for t in lines.get_xticklabels()] == ["64", "512", "4096"]
    drawn = [c.lines[0].get_xydata().tolist() for c in lines.containers]
    assert drawn == [[[64, 56.25], [512, 31.25]], [[4096, 81.25]]]
    assert [text.get_text() for text in lines.texts] == ["2/2"] * 3
    image = saved["heatmap.png"].axes[0]
    shown = [text.get_text() for text in image.texts]
    assert shown == ["56.25", "31.25", *["2/2 diverged"] * 3, "81.25"]
    assert [t.get_text() for t in image.get_yticklabels()] == ["None", "0.01"]


def test_many_settings_are_cut_off_aloud(tmp_path, monkeypatch):
    titles = []

    def keep(figure, path):
        titles.append(figure.get_suptitle())
        return path

    monkeypatch.setattr("nfnets.sweep.pictures.save_figure", keep)
    monkeypatch.setattr("nfnets.sweep.pictures._MOST_PANELS", 7)
    contents = contents_of(axis("model", *(f"m{i}" for i in range(8))))
    sweep_directory.make(tmp_path)
    sweep_directory.claim(tmp_path, contents)
    for cell in contents.runs:
        write_run(tmp_path, cell_name(cell), [evaluation(20, 0.5)])
    write_report(tmp_path)
    assert len(titles) == 1
    assert titles[0].endswith("first 7 settings")


def test_percent_has_two_decimals():
    assert [percent(v) for v in (0.79721, 1.0, None)] == ["79.72", "100.00", "-"]


def test_none_is_left_of_every_number():
    summaries = [
        Summary((("alpha", value),), {}, 0, None, None, None, None)
        for value in ("0.5", "0", "None", "-1")
    ]
    assert values_along(summaries, "alpha") == ["None", "-1", "0", "0.5"]
