"""The papers' own studies as named grids: ``sweep.py --name=agc``.

What a paper's grid was is known in part only; each ``source`` says what is from where.
``--grid`` replaces an axis and ``--config`` the recipe, to run a study small.
"""

from __future__ import annotations

import dataclasses

from nfnets.errors import UserError, did_you_mean
from nfnets.sweep.axes import Axis, Cell, axis, joint_axis


@dataclasses.dataclass(frozen=True)
class Grid:
    """A study.

    Attributes:
      source: where it is from, for the report.
      config: the recipe; None where an axis says it.
      fixed: settings that all runs share.
      axes: the last one changes fastest.
    """

    source: str
    config: str | None
    axes: tuple[Axis, ...]
    fixed: Cell = ()


GRIDS: dict[str, Grid] = {
    "agc": Grid(
        source="NFNets (arXiv 2102.06171), Sec. 4.1 and Fig. 2b: accuracy of "
        "NF-ResNet-50 by batch size and clipping threshold, and without clipping "
        "(None). All is clipped but the classifier's weights. The learning rate goes "
        "with the batch.",
        config="nf_resnet_50",
        fixed=(("optim.no_clip", '("^head/kernel$",)'),),
        axes=(
            axis("batch_size", 256, 512, 1024, 2048, 4096),
            axis("optim.agc_clipping", None, 0.01, 0.02, 0.04, 0.08, 0.16),
            axis("seed", 0),
        ),
    ),
    "rsb_lr_wd": Grid(
        source="ResNet strikes back (arXiv 2110.00476), ablation of A2: learning rate "
        "by weight decay, around the paper's 0.005 and 0.02. The points are ours.",
        config="rsb_a2",
        axes=(
            axis("optim.lr_peak", 0.002, 0.003, 0.005, 0.008, 0.01),
            axis("optim.weight_decay", 0.01, 0.02, 0.03, 0.05),
            axis("seed", 0),
        ),
    ),
    "rsb_loss": Grid(
        source="ResNet strikes back (arXiv 2110.00476), ablation of A2: cross-entropy, "
        "binary cross-entropy with the targets of mixed images set to 1, and with "
        "targets that sum to 1.",
        config="rsb_a2",
        axes=(
            joint_axis(
                ("loss", "bce_target_threshold"),
                ("softmax", None),
                ("bce", 0.2),
                ("bce", None),
            ),
            axis("seed", 0, 1, 2),
        ),
    ),
    "rsb_augment": Grid(
        source="ResNet strikes back (arXiv 2110.00476), ablation of A2: RandAugment's "
        "magnitude, mixup's alpha and repeated augmentation, each around A2's own "
        "(m7, 0.1, 3). The points are ours.",
        config="rsb_a2",
        axes=(
            axis("augment.randaugment_magnitude", 6.0, 7.0, 8.0),
            axis("augment.mixup_alpha", 0.1, 0.2, 0.8),
            axis("augment.repeats", 1, 3),
            axis("seed", 0),
        ),
    ),
    "rsb_architectures": Grid(
        source="ResNet strikes back (arXiv 2110.00476), table of architectures: one "
        "procedure for all, no value adapted. Those of timm's released weights.",
        config=None,
        axes=(
            axis("config", "rsb_a1", "rsb_a2", "rsb_a3"),
            axis(
                "model",
                "resnet18",
                "resnet34",
                "resnet50",
                "resnet101",
                "resnet152",
                "resnet50d",
                "seresnet50",
                "resnext50_32x4d",
            ),
            axis("seed", 0),
        ),
    ),
    "rsb_a2_t2": Grid(
        source="ResNet strikes back (arXiv 2110.00476), A2 against T2: the ranking of "
        "two architectures depends on the procedure.",
        config=None,
        axes=(
            axis("config", "rsb_a2", "rsb_t2"),
            axis("model", "resnet50", "deit_s"),
            axis("seed", 0, 1, 2),
        ),
    ),
    "seeds": Grid(
        source="ResNet strikes back (arXiv 2110.00476), 100 seeds of A2: on val 79.72 "
        "+- 0.10 (79.50 to 79.98), from memory of the paper.",
        config="rsb_a2",
        axes=(axis("seed", *range(100)),),
    ),
}


def named_grid(name: str) -> Grid:
    """The grid of a name.

    Raises:
      UserError: there is none; close names are listed.
    """
    if name not in GRIDS:
        raise UserError(f"unknown grid {name!r}; {did_you_mean(name, GRIDS)}")
    return GRIDS[name]
