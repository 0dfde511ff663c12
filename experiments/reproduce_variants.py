"""The variants of the recipe that ``reproduce.py`` trains, each with the flags in which it differs from the plain one.

A *variant* is a recipe with its warm-up and flags. To add one, add a line to ``VARIANTS`` and its name to a group of
``reproduce_cells``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from colaworld.experiments.recipes import RecipeName

PLAIN_WARMUP = 8
"""Of the plain recipe, in sixtieths of all steps (paper: 8 of 60 thousand)."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One column of a table."""

    name: str
    title: str
    recipe: RecipeName = "cola"
    warmup: int = PLAIN_WARMUP
    """Length of the warm-up in sixtieths of all steps."""
    steps: float = 1.0
    """Of warm-up and joint together, in those of the other variants."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Further flags of ``train_world_model.py``; "" is the value of a switch, words are told apart by spaces."""


def _shifted(pixels: int) -> dict[str, str]:
    """Random crops of another size, wherever there are crops."""
    return {f"--{stage}.shift": str(pixels) for stage in ("warmup", "joint", "adapter")}


_OWN_CROP = {"--warmup.own-crop": "", "--joint.own-crop": ""}
_NO_RAMP = {"--warmup.commitment-ramp": "1", "--joint.commitment-ramp": "1"}
_ACTION_LOSS = {"--warmup.action-weight": "1.0", "--joint.action-weight": "1.0"}

VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        variant.name: variant
        for variant in (
            Variant(name="cola", title="cola (warm-up 8/60)"),
            Variant(name="no_warmup", title="no warm-up (0/60)", recipe="no_warmup"),
            Variant(name="warmup_4", title="warm-up 4/60", warmup=4),
            Variant(name="warmup_12", title="warm-up 12/60", warmup=12),
            Variant(name="warmup_16", title="warm-up 16/60", warmup=16),
            Variant(name="frozen_lam", title="frozen LAM", recipe="frozen_lam"),
            Variant(name="frozen_world", title="frozen world model", recipe="frozen_world"),
            Variant(name="no_grad_to_lam", title="no gradient to the LAM", recipe="no_grad_to_lam"),
            Variant(name="no_grad_to_world", title="no gradient to the world model", recipe="no_grad_to_world"),
            Variant(name="two_stage", title="two-stage (30/60 + 30/60)", recipe="two_stage"),
            Variant(
                name="two_stage_compute",
                title="two-stage with 1.5 times the steps, which is cola's compute",
                recipe="two_stage",
                steps=1.5,
            ),
            Variant(name="real_actions", title="real actions", recipe="real_actions"),
            Variant(name="continuous", title="continuous (KL)", flags={"--bottleneck": "continuous"}),
            Variant(name="fsq", title="FSQ", flags={"--bottleneck": "fsq"}),
            Variant(name="simvq", title="SimVQ", flags={"--bottleneck": "simvq"}),
            Variant(name="residual_vq", title="residual VQ", flags={"--bottleneck": "residual_vq"}),
            Variant(name="extended_warmup", title="warm-up until codes settle", flags={"--guard": "extend"}),
            Variant(name="no_ramp", title="warm-up, commitment from the first step", flags=_NO_RAMP),
            Variant(
                name="no_warmup_no_ramp",
                title="no warm-up, commitment from the first step",
                recipe="no_warmup",
                flags=_NO_RAMP,
            ),
            Variant(name="no_crop", title="no crop", flags=_shifted(0)),
            Variant(name="crop_8", title="crop of 8 pixels", flags=_shifted(8)),
            Variant(
                name="own_crop",
                title="IDM on its own crop",
                flags=_OWN_CROP,
            ),
            Variant(
                name="own_crop_8",
                title="IDM on its own crop of 8 pixels",
                flags={**_OWN_CROP, "--warmup.shift": "8", "--joint.shift": "8"},
            ),
            Variant(name="codes_8", title="codebook of 8", flags={"--entries": "8"}),
            Variant(name="narrow_codes", title="codes of width 8", flags={"--code-width": "8"}),
            Variant(name="one_token", title="one token", flags={"--tokens": "1"}),
            Variant(
                name="labelled_loss",
                title="action loss on 1 % of clips",
                flags={"--action-labels": "0.01", **_ACTION_LOSS},
            ),
            Variant(
                name="labelled_loss_10",
                title="action loss on 10 % of clips",
                flags={"--action-labels": "0.1", **_ACTION_LOSS},
            ),
            Variant(
                name="longer_pretraining",
                title="longer action-free pre-training",
                flags={
                    "--stages": "pretrain warmup joint adapter",
                    "--pretrain.steps": "1500",
                    "--pretrain.batch-size": "4",
                },
            ),
            Variant(
                name="labelled_loss_plain_adapter",
                title="action loss on 1 % of clips, two-layer adapter",
                flags={"--action-labels": "0.01", **_ACTION_LOSS, "--no-adapter-context": ""},
            ),
            Variant(name="no_fine_tune", title="world model not fine-tuned", flags={"--adapter.steps": "0"}),
            Variant(
                name="through_adapter",
                title="fine-tuned on the adapter's own answers",
                flags={"--adapter.through-adapter": "0.75"},
            ),
            Variant(name="plain_adapter", title="two-layer adapter", flags={"--no-adapter-context": ""}),
            Variant(
                name="regressing_adapter",
                title="two-layer adapter that regresses and quantises (the paper's)",
                flags={"--no-adapter-context": "", "--adapter-kind": "regress", "--adapter-snap": ""},
            ),
            Variant(
                name="two_stage_regressing_adapter",
                title="two-stage with that adapter",
                recipe="two_stage",
                flags={"--no-adapter-context": "", "--adapter-kind": "regress", "--adapter-snap": ""},
            ),
            Variant(name="nearest_adapter", title="adapter near the right code", flags={"--adapter-kind": "nearest"}),
            Variant(name="classifying_adapter", title="adapter that classifies", flags={"--adapter-kind": "classify"}),
            Variant(
                name="plain_classifying_adapter",
                title="two-layer adapter that classifies",
                flags={"--adapter-kind": "classify", "--no-adapter-context": "", "--adapter-snap": ""},
            ),
            Variant(name="cola_labels_1", title="cola, 1 % of labels", flags={"--label-fraction": "0.01"}),
            Variant(name="cola_labels_10", title="cola, 10 % of labels", flags={"--label-fraction": "0.1"}),
            Variant(
                name="real_actions_labels_1",
                title="real actions, 1 % of labels",
                recipe="real_actions",
                flags={"--label-fraction": "0.01"},
            ),
            Variant(
                name="real_actions_labels_10",
                title="real actions, 10 % of labels",
                recipe="real_actions",
                flags={"--label-fraction": "0.1"},
            ),
        )
    }
)
