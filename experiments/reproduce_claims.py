"""The paper's claims, and what its readers ask beside them, each with the one comparison that decides it here.

Recipes are compared as their latent-action stages leave them, before the adapter stage; what the adapter costs, and how
one plans over real actions, is compared after it. Other measures of the same comparison are shown and decide nothing.
How a comparison is judged: ``reproduce_verdicts``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from colaworld.experiments.reproduce_measures import (
    CLOSEST,
    COSINE,
    COSINE_GAIN,
    DISPLACEMENT,
    FOLLOWS,
    NEXT_FRAME,
    NEXT_FRAME_ADAPTED,
    PROBE,
    PROBE_GAIN,
    SUCCESS,
    USE,
    USE_AFTER,
    Measure,
    Source,
    drop,
    health,
    later_error,
    lost_worth,
    video,
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """``first`` is better than ``second`` by ``measure``."""

    text: str
    first: str
    second: str
    measure: Measure
    margin: float = 0.0
    """For "no worse than": how much worse than the second's mean still counts as no worse, as a share of it."""
    needs: Measure | None = None
    """What must be above ``least`` in both, by their means over seeds, else there is nothing to compare."""
    least: float = 0.0
    empty: str = ""
    """What it means when it is not."""
    beside: tuple[Measure, ...] = ()
    """Measures of the same comparison that are shown and decide nothing."""
    smallest: float = 0.0
    """The smallest difference that matters, in the measure's unit; 0: none has been fixed."""


@dataclass(frozen=True, kw_only=True)
class CollapseClaim:
    """With every seed the codebook of ``first`` has collapsed and that of ``second`` has not."""

    text: str
    first: str
    second: str
    source: Source = "learned"
    """What gives the codes."""


FAR = video("learned", "psnr", 10)
"""What decides between recipes."""
MATTERS = 0.05
"""dB of it; a world model that makes no use of its codes at all loses twice that. Fixed when 30 cells had run."""
CLOSER_MATTER = {USE.title: 0.17, NEXT_FRAME.title: 0.013, video("learned", "frechet", 10).title: 0.24}
"""The same share, half, of what is lost without use of the codes by the measures that follow actions more closely: where
one of these may matter, PSNR alone does not say that nothing does. Fixed when 45 cells had run."""
_ALSO = (video("learned", "psnr", 1), video("learned", "ssim", 10), video("learned", "frechet", 10), USE)
_ALSO_ADAPTED = tuple(video("adapter", metric, at) for metric, at in (("psnr", 10), ("ssim", 10), ("frechet", 10)))


def _predicts_better(text: str, second: str, *also: Measure, first: str = "cola") -> Claim:
    return Claim(text=text, first=first, second=second, measure=FAR, beside=(*_ALSO, *also), smallest=MATTERS)


def _acts_better(text: str, first: str, second: str) -> Claim:
    """One step on from real actions through the adapter, which follows actions more closely than PSNR ten steps on."""
    return Claim(text=text, first=first, second=second, measure=NEXT_FRAME_ADAPTED, beside=_ALSO_ADAPTED)


def _plans_better(text: str, first: str, second: str) -> Claim:
    return Claim(
        text=text,
        first=first,
        second=second,
        measure=SUCCESS,
        beside=(CLOSEST, COSINE, COSINE_GAIN, FOLLOWS),
    )


def _cost(metric: str, horizon: int) -> Measure:
    return drop(metric, horizon, "snapped_adapter")


COST, LATER, LOST = _cost("psnr", 10), later_error("snapped_adapter"), lost_worth("snapped_adapter")


def _costs_less(text: str, first: str, second: str, measure: Measure) -> Claim:
    others = (COST, LATER, LOST, _cost("psnr", 1), _cost("ssim", 10), _cost("frechet", 10), health("adapter", "entropy"))
    return Claim(
        text=text,
        first=first,
        second=second,
        measure=measure,
        needs=USE_AFTER,
        least=0.01,
        empty="a model that makes no use of its codes has nothing to lose",
        beside=tuple(other for other in others if other is not measure),
    )


_USE, _ERROR, _DISTANCE, _WORTH = CLOSER_TITLES = (
    "action use U",
    "next-frame error",
    "Fréchet distance at horizon 10",
    "share of the codes' worth",
)
CLOSER: Mapping[str, Mapping[str, Measure]] = {
    FAR.title: {_USE: USE, _ERROR: NEXT_FRAME, _DISTANCE: video("learned", "frechet", 10)},
    COST.title: {_ERROR: LATER, _DISTANCE: _cost("frechet", 10), _WORTH: LOST},
    LATER.title: {_DISTANCE: _cost("frechet", 10), _WORTH: LOST},
}
"""By the title of what decides: measures of the same comparison that follow actions more closely."""


CLAIMS: tuple[Claim | CollapseClaim, ...] = (
    CollapseClaim(
        text="Without a warm-up the codebook collapses, with one it does not.", first="no_warmup", second="cola"
    ),
    CollapseClaim(
        text="The same where the commitment loss has its full weight from the first step.",
        first="no_warmup_no_ramp",
        second="no_ramp",
    ),
    _predicts_better("Warm-up, then joint training beats no warm-up at equal steps.", "no_warmup"),
    _predicts_better(
        "The same where the commitment loss has its full weight from the first step.",
        "no_warmup_no_ramp",
        first="no_ramp",
    ),
    *(
        _predicts_better(f"A warm-up of 8/60 of the steps beats one of {length}/60.", f"warmup_{length}")
        for length in (4, 12, 16)
    ),
    _predicts_better(
        "A warm-up that goes on until the codes have settled, its learning rate constant, beats one of 8/60.",
        "cola",
        first="extended_warmup",
    ),
    _predicts_better("Both parts free beats a LAM frozen after the warm-up.", "frozen_lam"),
    _predicts_better("Both parts free beats a world model frozen after the warm-up.", "frozen_world"),
    _predicts_better("The world model's gradient to the LAM matters.", "no_grad_to_lam"),
    _predicts_better("The gradient to the world model matters.", "no_grad_to_world"),
    Claim(
        text="CoLA's codes are as linearly readable as two-stage's (L1 no more than 5 % above).",
        first="cola",
        second="two_stage",
        measure=PROBE,
        margin=0.05,
        needs=PROBE_GAIN,
        empty="codes that tell a linear layer no more than a constant does are equally unreadable",
    ),
    _costs_less(
        "Going from the IDM's codes to the adapter's costs CoLA less than two-stage.",
        "cola",
        "two_stage",
        COST,
    ),
    _costs_less(
        "The same, with the paper's adapter: two layers over the action, which regress and are snapped to codes.",
        "regressing_adapter",
        "two_stage_regressing_adapter",
        LATER,
    ),
    CollapseClaim(
        text="Driven by the paper's adapter, two-stage loses its codes and CoLA does not.",
        first="two_stage_regressing_adapter",
        second="regressing_adapter",
        source="adapter",
    ),
    _predicts_better("CoLA predicts better than two-stage at equal steps.", "two_stage"),
    _predicts_better("CoLA predicts better than two-stage at equal compute.", "two_stage_compute"),
    *(
        _acts_better(
            f"With {percent} % of the action labels, an adapter on latent actions beats real actions as conditioning.",
            f"cola_labels_{percent}",
            f"real_actions_labels_{percent}",
        )
        for percent in (1, 10)
    ),
    _acts_better(
        "With all action labels, an adapter on latent actions beats real actions as conditioning.", "cola", "real_actions"
    ),
    _acts_better("Fine-tuning the world model after the adapter's fit helps.", "cola", "no_fine_tune"),
    _acts_better(
        "An adapter that sees frames predicts better than two layers over the action alone (asked when all had run).",
        "cola",
        "plain_adapter",
    ),
    _predicts_better("No crops predict better than the paper's (asked when one seed had run).", "cola", first="no_crop"),
    *(
        _predicts_better(f"VQ codes predict better than {title}.", second, *_ALSO_ADAPTED)
        for second, title in (
            ("continuous", "continuous latent actions"),
            ("fsq", "FSQ"),
            ("simvq", "SimVQ"),
            ("residual_vq", "residual VQ"),
        )
    ),
    _plans_better("CoLA plans better than two-stage at equal steps.", "cola", "two_stage"),
    *(
        _plans_better(
            f"With {percent} % of the action labels, latent actions plan better than real actions.",
            f"cola_labels_{percent}",
            f"real_actions_labels_{percent}",
        )
        for percent in (1, 10)
    ),
    _plans_better("With all action labels, latent actions plan better than real actions.", "cola", "real_actions"),
    _plans_better(
        "An adapter that sees frames plans better than two layers over the action alone.", "cola", "plain_adapter"
    ),
    _plans_better(
        "The same where a loss on 1 % of the actions trained the codes.", "labelled_loss", "labelled_loss_plain_adapter"
    ),
    Claim(
        text="An action loss on 1 % of the clips makes codes say how the gripper moves.",
        first="labelled_loss",
        second="cola",
        measure=DISPLACEMENT,
        beside=(PROBE,),
    ),
)
