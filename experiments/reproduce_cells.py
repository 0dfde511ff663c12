"""The grid of ``reproduce.py``: which variants are trained, in which experiments, with which flags.

A *cell* is a variant with a seed: one run of ``train_world_model.py``. A *group* is an experiment, a set of variants
that are compared. Groups share cells: the plain recipe is in nearly all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from colaworld.experiments.reproduce_variants import PLAIN_WARMUP, VARIANTS, Variant

PAPER_STEPS = 60
"""Thousands of steps, warm-up and joint together, in the paper's main run: the unit of warm-up lengths."""
ADAPTER_STAGE_FLAGS = ("--adapter.", "--adapter-fit.")
ADAPTER_FLAGS = ("--adapter-", "--no-adapter-", "--label-fraction")
FEWEST_SEEDS = (0, 1, 2)
"""No claim is judged on less."""
ScaleName = Literal["tiny", "small"]
GroupName = Literal[
    "warmup",
    "freeze",
    "gradients",
    "probe",
    "compute",
    "adapter",
    "ramp",
    "guard",
    "bottlenecks",
    "naming",
    "adapters",
    "labels",
    "planning",
]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Budgets of every run of a preset."""

    name: ScaleName
    steps: int
    """Warm-up and joint together; the recipes that divide them otherwise spend as many."""
    batch_size: int
    adapter_steps: int
    """Fine-tuning with the adapter: the paper's 3K of 60K."""
    adapter_fit_steps: int
    """Of the adapter alone."""
    watch_every: int
    imagined: float = 0.2
    """Of the plain recipe's joint steps, how many train on imagined frames at the end; every run has as many."""

    def warmup_steps(self, sixtieths: int) -> int:
        """The paper's ``sixtieths`` thousand steps of warm-up, scaled."""
        return self.steps * sixtieths // PAPER_STEPS


SCALES: Mapping[ScaleName, Scale] = MappingProxyType(
    {
        scale.name: scale
        for scale in (
            Scale(name="tiny", steps=1500, batch_size=4, adapter_steps=75, adapter_fit_steps=800, watch_every=50),
            Scale(name="small", steps=15000, batch_size=32, adapter_steps=750, adapter_fit_steps=3000, watch_every=250),
        )
    }
)


@dataclass(frozen=True, kw_only=True)
class Group:
    """One experiment: what is compared with what."""

    title: str
    question: str
    variants: tuple[str, ...]
    first: bool = False
    """Whether it is one of the five first experiments, which run before the others."""


GROUPS: Mapping[GroupName, Group] = MappingProxyType(
    {
        "warmup": Group(
            title="Length of the warm-up",
            question="Does the codebook need a warm-up, and how long? The paper's 0, 4, 8, 12 and 16 of 60 thousand "
            "steps, scaled; all runs have equally many steps in all.",
            variants=("no_warmup", "warmup_4", "cola", "warmup_12", "warmup_16"),
            first=True,
        ),
        "freeze": Group(
            title="One part frozen after the warm-up",
            question="Must latent action model (LAM) and world model both go on learning?",
            variants=("cola", "frozen_lam", "frozen_world"),
            first=True,
        ),
        "gradients": Group(
            title="Gradient paths in joint training",
            question="Does the world model's loss have to reach the LAM, and the other way round?",
            variants=("cola", "no_grad_to_lam", "no_grad_to_world"),
            first=True,
        ),
        "probe": Group(
            title="Linear probe",
            question="How well does one linear layer read the real action off frozen latent actions?",
            variants=("cola", "two_stage"),
            first=True,
        ),
        "compute": Group(
            title="Two-stage at equal compute",
            question="A joint step costs half as much again as one of two-stage training, on average over its stages. "
            "Is two-stage worse when it may spend as many operations?",
            variants=("cola", "two_stage", "two_stage_compute"),
        ),
        "adapter": Group(
            title="Adapter robustness",
            question="What is lost when real actions through the adapter take the place of the inverse dynamics "
            "model's (IDM's) codes? The row of real actions has no codes and stands beside it as a reference.",
            variants=(
                "cola",
                "two_stage",
                "no_warmup",
                "frozen_lam",
                "frozen_world",
                "no_grad_to_lam",
                "no_grad_to_world",
                "real_actions",
            ),
            first=True,
        ),
        "ramp": Group(
            title="What else keeps a codebook alive at the start",
            question="In every other cell the commitment loss grows in over the first steps, with a warm-up or without "
            "one. Does a run without a warm-up stand its full weight from the first step?",
            variants=("cola", "no_warmup", "no_ramp", "no_warmup_no_ramp"),
        ),
        "guard": Group(
            title="A warm-up that ends when the codebook has settled",
            question="Is a warm-up better ended by its steps, or when utilisation and entropy have settled (as with "
            "the paper's second backbone)? What a longer warm-up takes, joint training lacks.",
            variants=("cola", "extended_warmup"),
        ),
        "bottlenecks": Group(
            title="Bottlenecks",
            question="Why not continuous latents, or another quantiser? The plain recipe has VQ.",
            variants=("cola", "continuous", "fsq", "simvq", "residual_vq"),
        ),
        "naming": Group(
            title="Do codes name actions?",
            question="Codes may name where the arm ends up instead of how it moves: what turns them into actions?",
            variants=(
                "cola",
                "no_crop",
                "crop_8",
                "own_crop",
                "own_crop_8",
                "longer_pretraining",
                "codes_8",
                "narrow_codes",
                "one_token",
                "labelled_loss",
                "labelled_loss_10",
            ),
        ),
        "adapters": Group(
            title="Adapter choices",
            question="Regress, come near a code or classify; see frames or actions alone; and is the world model "
            "fine-tuned with the adapter, on which latent actions? The plain recipe's adapter regresses and sees "
            "frames, the world model is fine-tuned on the IDM's codes.",
            variants=(
                "cola",
                "no_fine_tune",
                "through_adapter",
                "plain_adapter",
                "regressing_adapter",
                "two_stage_regressing_adapter",
                "nearest_adapter",
                "classifying_adapter",
                "plain_classifying_adapter",
            ),
        ),
        "labels": Group(
            title="Label efficiency",
            question="What are 1, 10 and 100 % of the action labels worth to an adapter on latent actions, and to a "
            "world model on real actions? The columns without a share have all labels.",
            variants=(
                "cola_labels_1",
                "cola_labels_10",
                "cola",
                "real_actions_labels_1",
                "real_actions_labels_10",
                "real_actions",
            ),
        ),
        "planning": Group(
            title="Planning",
            question="Whose world is better to plan in, CoLA's or a two-stage one's, with real actions as a reference? "
            "And need an adapter see frames: of codes that name actions two layers over the action alone would do.",
            variants=(
                "cola",
                "two_stage",
                "real_actions",
                "plain_adapter",
                "labelled_loss",
                "labelled_loss_plain_adapter",
            ),
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a variant with a seed."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Of its file and its run folder."""
        return f"{self.variant.name}-s{self.seed}"

    def before_adapter(self, scale: Scale) -> tuple[tuple[str, str], ...]:
        """What its run shares with others (``shared_stages``): the flags that matter before the adapter stage."""
        free = () if self.variant.recipe == "real_actions" else ADAPTER_FLAGS
        flags = self.flags(scale).items()
        return tuple((flag, value) for flag, value in flags if not flag.startswith((*ADAPTER_STAGE_FLAGS, *free)))

    def flags(self, scale: Scale) -> dict[str, str]:
        """Everything that ``train_world_model.py`` is told, but for paths; "" is the value of a switch."""
        warmup, steps = scale.warmup_steps(self.variant.warmup), round(self.variant.steps * scale.steps)
        plain = scale.warmup_steps(PLAIN_WARMUP)
        imagined = self.variant.steps * scale.imagined * (scale.steps - plain) / (steps - warmup)
        return {
            "--recipe": self.variant.recipe,
            "--preset": scale.name,
            "--warmup.steps": str(warmup),
            "--joint.steps": str(steps - warmup),
            "--joint.imagined": f"{imagined:.6f}",
            "--warmup.batch-size": str(scale.batch_size),
            "--joint.batch-size": str(scale.batch_size),
            "--warmup.learning-rate": "1e-3",
            "--joint.learning-rate": "1e-3",
            # The same for every variant: a recipe without a warm-up must not lack the gentle start of its codes.
            "--warmup.commitment-ramp": str(plain),
            "--joint.commitment-ramp": str(plain),
            "--adapter.steps": str(scale.adapter_steps),
            "--adapter.batch-size": str(scale.batch_size),
            # The paper's: fine-tuned on the IDM's own codes, then the adapter is swapped in.
            "--adapter.through-adapter": "0",
            "--adapter.learning-rate": "4e-4",
            "--adapter.learning-rate-warmup": str(min(50, scale.adapter_steps // 5)),
            "--adapter-fit.steps": str(scale.adapter_fit_steps),
            "--loop.seed": str(self.seed),
            "--loop.watch-every": str(scale.watch_every),
            **self.variant.flags,
        }


def as_arguments(flags: Mapping[str, str]) -> list[str]:
    """Flags as a command line has them; a value of several words becomes several arguments."""
    return [word for flag, value in flags.items() for word in (flag, *value.split())]


def ordered_cells(groups: Iterable[GroupName], seeds: Sequence[int]) -> list[Cell]:
    """Every cell once, in the order in which they run: the first experiments seed by seed, then the others."""
    chosen = list(groups)
    rounds = [(first, seed) for first in (True, False) for seed in seeds]
    found = {}
    for first, seed in rounds:
        for group in (GROUPS[name] for name in chosen if GROUPS[name].first == first):
            for name in group.variants:
                cell = Cell(variant=VARIANTS[name], seed=seed)
                found.setdefault(cell.name, cell)
    return list(found.values())
