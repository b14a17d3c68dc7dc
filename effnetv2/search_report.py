"""What a search leaves for its reader: a table, a Pareto picture, the best network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from effnetv2.backbones import Backbone
from effnetv2.config_source import config_source
from effnetv2.reward import PARAMS_EXPONENT, STEP_TIME_EXPONENT, pareto_front
from effnetv2.scaling import SCALES, eval_size, scale_found, train_size
from effnetv2.search_candidates import network_recipe
from effnetv2.search_directory import Settings
from nfnets.training.figures import new_figure, save_figure
from nfnets.training.metrics import Row
from nfnets.training.recipe import Recipe
from nfnets.training.report import write_csv
from nfnets.training.storage import write_atomically
from nfnets.versions import versions

BEST = "best.py"


def write_search_report(
    directory: epath.Path,
    settings: Settings,
    recipe: Recipe,
    rows: Sequence[Row],
    retrained: Sequence[Row],
    *,
    space_size: int,
    command: str,
) -> None:
    """Writes candidates.csv, pareto.png, best.py and report.md anew.

    Args:
      directory: of the search.
      settings: of the search.
      recipe: that candidates trained by.
      rows: of the candidates; the first is the backbone.
      retrained: of those trained again, may be empty.
      space_size: number of networks.
      command: as it was typed.
    """
    write_csv(directory / "candidates.csv", [_flat(row) for row in rows])
    trained = [row for row in rows if row["status"] == "ok"]
    facts = _facts(settings, recipe, rows, space_size)
    lines = [f"# Search: {settings.recipe.name}", "", "```", command, "```", "", *facts]
    if trained:
        best = max(trained, key=lambda row: row["reward"])
        draw_pareto(directory / "pareto.png", trained, best)
        source = best_config(settings, best)
        write_atomically(directory / BEST, source)
        lines += [
            *_best_lines(settings.backbone, best, directory),
            "![accuracy against step time and parameters](pareto.png)",
            "",
            *_larger_lines(best["stages"]),
            *_retrained_lines(retrained),
            *_table(trained),
        ]
    lines += _failures(rows)
    write_atomically(directory / "report.md", "\n".join([*lines, ""]))


def _failures(rows: Sequence[Row]) -> list[str]:
    return [
        f"Candidate {row['index']}: {row['status']}, {row['reason']}\n"
        for row in rows
        if row["status"] != "ok"
    ]


def _flat(row: Row) -> Row:
    lists = ("genotype", "stages")
    return {k: " ".join(v) if k in lists else v for k, v in row.items()}


def _facts(
    settings: Settings, recipe: Recipe, rows: Sequence[Row], space_size: int
) -> list[str]:
    algorithm, backbone = settings.algorithm, settings.backbone
    how = f"{algorithm.name}, seed {algorithm.seed}"
    if algorithm.name == "evolution":
        how += f", population {algorithm.population}, tournament {algorithm.tournament}"
    environment = ", ".join(f"{k} {v}" for k, v in versions().items())
    return [
        f"- reward: accuracy * S^{STEP_TIME_EXPONENT} * P^{PARAMS_EXPONENT}; S and P "
        f"are train step time and parameters over those of {backbone.name}",
        f"- {len(rows)} of {space_size:,} networks tried ({how})",
        f"- each trained for {recipe.total_steps} steps of {recipe.batch_size} images "
        f"at {recipe.train_image_size} px, seed {recipe.seed}; accuracy on "
        f"{recipe.data.holdout:g} images kept from training",
        f"- steps timed on {settings.device}",
        *_noise(rows[:1]),
        f"- versions: {environment}",
        "",
    ]


def _noise(backbone: Sequence[Row]) -> list[str]:
    """How far the backbone's step time is from itself."""
    if not backbone or backbone[0]["status"] != "ok":
        return []
    row = backbone[0]
    return [
        f"- candidate 0 is the backbone: its step took {row['step_time']:.3f} times "
        f"its own time, so that is how exact S is; "
        f"{row['backbone_step_seconds'] * 1e3:.1f} ms"
    ]


def draw_pareto(path: epath.Path, rows: Sequence[Row], best: Row) -> None:
    """Draws accuracy against step time and against parameters, fronts included."""
    figure = new_figure(11, 5)
    panels: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("train step, relative to the backbone's", lambda row: row["step_time"]),
        ("parameters (M)", lambda row: row["num_params"] / 1e6),
    )
    accuracies = [row["accuracy"] for row in rows]
    for axes, (label, cost) in zip(figure.subplots(1, 2), panels, strict=True):
        costs = [cost(row) for row in rows]
        axes.plot(costs, accuracies, "o", color="0.6", ms=4, label="candidates")
        front = pareto_front(costs, accuracies)
        axes.plot(
            [costs[i] for i in front],
            [accuracies[i] for i in front],
            "-",
            drawstyle="steps-post",
            color="tab:blue",
            label="Pareto front",
        )
        for row, marker, name in (
            (rows[0], "s", "backbone"),
            (best, "*", "best reward"),
        ):
            if name == "best reward" or row["index"] == 0:
                axes.plot(
                    cost(row), row["accuracy"], marker, ms=10, label=name, mfc="none"
                )
        axes.set_xlabel(label)
        axes.set_ylabel("accuracy on held-out training images")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save_figure(figure, path)


def create_model_line(backbone: Backbone, stages: Sequence[str]) -> str:
    """Python that makes the network, to be pasted."""
    arguments = {"stages": tuple(stages), **backbone.overrides}
    shown = "".join(f"    {key}={value!r},\n" for key, value in arguments.items())
    return f'create_model(\n    "{backbone.model}",\n    num_classes=1000,\n{shown})'


def best_config(settings: Settings, best: Row) -> str:
    """A config file of the user's recipe, at its full length, with the best network."""
    recipe = network_recipe(settings.recipe, settings.backbone, tuple(best["stages"]))
    return config_source(
        recipe, f"Candidate {best['index']} of a search with {recipe.name}."
    )


def _best_lines(backbone: Backbone, best: Row, directory: epath.Path) -> list[str]:
    return [
        f"## Best: candidate {best['index']}, reward {best['reward']:.4f}",
        "",
        f"Accuracy {best['accuracy']:.2%}, step time {best['step_time']:.3f} and "
        f"parameters {best['params']:.3f} of the backbone's "
        f"({best['num_params']:,} parameters).",
        "",
        "```python",
        create_model_line(backbone, best["stages"]),
        "```",
        "",
        "To train it by the whole recipe: "
        f"`python experiments/run.py --config={directory / BEST}`",
        "",
    ]


def larger_networks(stages: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Fields of a model's row: a found network as the S, and its M- and L-like ones."""
    return {
        name: {
            "stages": scale_found(stages, name),
            "train_size": train_size(SCALES[name].resolution),
            "eval_size": eval_size(SCALES[name].resolution),
        }
        for name in SCALES
    }


def _larger_lines(stages: Sequence[str]) -> list[str]:
    fields = json.dumps(larger_networks(stages), indent=2)
    return [
        "## Larger networks (EfficientNetV2, Sec. 3.3)",
        "",
        "If the best is taken as the S of a family: fields of a model's row.",
        "",
        "```json",
        fields,
        "```",
        "",
    ]


def _retrained_lines(retrained: Sequence[Row]) -> list[str]:
    if not retrained:
        return []
    lines = [
        "## Retrained from another seed",
        "",
        "| candidate | was | seed | reward at first | reward | accuracy | step time |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in retrained:
        numbers = f"{row['status']} | |"
        if row["status"] == "ok":
            numbers = f"{row['accuracy']:.2%} | {row['step_time']:.3f} |"
        lines.append(
            f"| {row['index']} | {row['role']} | {row['seed']} "
            f"| {row['first_reward']:.4f} "
            f"| {row['reward']:.4f} | {numbers}"
        )
    return [*lines, ""]


def _table(trained: Sequence[Row]) -> list[str]:
    lines = [
        "## Candidates, by reward",
        "",
        "| candidate | reward | accuracy | step time | spread | parameters | stages |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(trained, key=lambda row: -row["reward"]):
        lines.append(
            f"| {row['index']} | {row['reward']:.4f} | {row['accuracy']:.2%} "
            f"| {row['step_time']:.3f} | {row['step_time_spread']:.3f} "
            f"| {row['num_params']:,} | {' '.join(row['stages'])} |"
        )
    return [*lines, ""]
