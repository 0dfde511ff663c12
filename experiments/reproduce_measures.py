"""What is read from a cell's evaluation: named measures, which way is better, and how they are written.

A measure's value is an array ``(n,)``, one number for each evaluation clip or goal, or ``()`` where there is but one
number for the whole evaluation; None where the run did not measure it. Every run is evaluated on the same clips in the
same order.

What recipes are compared by is measured when their latent-action stages end (source ``"learned"``): the adapter stage
trains the world model further, on the IDM's codes for every recipe, and would blur in what they differ. Only what is
lost on the way from codes to real actions is measured after it, and planning, which is over real actions.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from colaworld.experiments.reproduce_store import StoredCell

HORIZONS = (1, 5, 10)
Source = Literal["learned", "idm", "adapter", "adapter_codes", "snapped_adapter", "copy", "codec"]
"""What drives the world model. ``"learned"``: before the adapter stage, the IDM's codes or, for the recipe on real
actions, these. After it: the others; ``"snapped_adapter"`` is the adapter's answer snapped to codes where a run has
that (the paper's answers with codes; its two layers over the action alone are a variant's), else as it is.
"""
Value = np.ndarray | None
COLLAPSE = {"utilisation": 0.2, "max_usage": 0.5, "entropy": 1.0}
"""The paper's thresholds: utilisation or entropy (nats) below, or max-usage above, is a collapse."""
SAID: Mapping[Source, str] = {
    "learned": "before the adapter stage",
    "idm": "IDM's codes after the adapter stage",
    "adapter": "real actions through the adapter",
    "adapter_codes": "real actions through the adapter, snapped to codes",
    "snapped_adapter": "real actions through the adapter, snapped to codes where there are codes",
    "copy": "last frame copied",
    "codec": "real frames as the codec returns them",
}
_PLACES: Mapping[Source, tuple[tuple[str, ...], ...]] = {
    "learned": (("before_adapter", "idm"), ("before_adapter", "adapter")),
    "snapped_adapter": (("adapter_codes",), ("adapter",)),
}
"""Where a source stands in an evaluation; the first that is there counts. Others stand under their name."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of an evaluation."""

    title: str
    read: Callable[[Mapping[str, Any]], Value]
    digits: int = 3
    """After the point."""
    better: Literal["higher", "lower"] | None = None
    basis: Callable[[Mapping[str, Any]], str | None] = lambda evaluation: None
    """What runs must have in common for this to be comparable; None where the run did not measure it."""
    each: str = "clips"
    """What there is one number of."""

    def values(self, stored: StoredCell | None) -> Value:
        """Of a cell; None when it has not finished or did not measure this."""
        return self.read(stored.evaluation) if stored is not None and stored.finished else None

    def mean(self, stored: StoredCell | None) -> float | None:
        """One number for a cell."""
        values = self.values(stored)
        return None if values is None else float(values.mean())

    def bases(self, cells: Iterable[StoredCell | None]) -> list[str]:
        """The different bases of the cells that have one: more than one, and they cannot be compared."""
        found_here = {self.basis(cell.evaluation) for cell in cells if cell is not None and cell.finished}
        return sorted(found_here - {None})

    def text(self, value: float) -> str:
        """A value as it is printed."""
        return f"{value:z.{self.digits}f}"


def found(evaluation: Mapping[str, Any], *keys: str) -> Value:
    """The number or list of numbers under ``keys``; None where it is absent, null, or not all finite."""
    at: Any = evaluation
    for key in keys:
        if not isinstance(at, Mapping) or at.get(key) is None:
            return None
        at = at[key]
    values = np.array([np.nan if each is None else each for each in at] if isinstance(at, list) else at, float)
    return values if values.size and np.isfinite(values).all() else None


def number(title: str, *keys: str, digits: int = 3, better: Literal["higher", "lower"] | None = None) -> Measure:
    """What stands under ``keys``."""
    return Measure(title=title, read=lambda evaluation: found(evaluation, *keys), digits=digits, better=better)


def driven(evaluation: Mapping[str, Any], source: Source) -> Mapping[str, Any]:
    """All that was measured of a source; empty where nothing was."""
    for place in _PLACES.get(source, ((source,),)):
        at: Any = evaluation
        for key in place:
            at = (at or {}).get(key)
        if at:
            return at
    return {}


def of_source(
    title: str, source: Source, *keys: str, digits: int = 3, better: Literal["higher", "lower"] | None = None
) -> Measure:
    """What stands under ``keys`` for a source."""
    return Measure(
        title=f"{title}, {SAID[source]}",
        read=lambda evaluation: found(driven(evaluation, source), *keys),
        digits=digits,
        better=better,
    )


_VIDEO: dict[str, tuple[str, int, Literal["higher", "lower"], tuple[str, ...]]] = {
    "psnr": ("PSNR (dB)", 2, "higher", ("psnr",)),
    "ssim": ("SSIM", 3, "higher", ("ssim",)),
    "lpips": ("LPIPS", 3, "lower", ("lpips",)),
    "frechet": ("Fréchet distance", 3, "lower", ("frechet", "value")),
}
VIDEO_METRICS = tuple(_VIDEO)


def video(source: Source, metric: str, horizon: int) -> Measure:
    """A video metric of frames imagined ``horizon`` steps ahead."""
    title, digits, better, keys = _VIDEO[metric]
    said = f"{title} at horizon {horizon}"
    measure = of_source(said, source, "video", str(horizon), *keys, digits=digits, better=better)
    return replace(measure, basis=_extractor(source, horizon)) if metric == "frechet" else measure


def _extractor(source: Source, horizon: int) -> Callable[[Mapping[str, Any]], str | None]:
    """The feature network of a Fréchet distance: distances on different ones cannot be compared."""

    def read(evaluation: Mapping[str, Any]) -> str | None:
        at = (driven(evaluation, source).get("video") or {}).get(str(horizon)) or {}
        return (at.get("frechet") or {}).get("name")

    return read


def _constant(source: Source) -> Callable[[Mapping[str, Any]], str | None]:
    """Which constant stands in for a source's actions in U: the two cannot be compared, a code may be worse than any
    mean.
    """

    def read(evaluation: Mapping[str, Any]) -> str | None:
        at = driven(evaluation, source)
        if at.get("use") is None:
            return None
        answered = source == "adapter" and evaluation.get("adapter_codes")  # as it is, not snapped to codes
        return "against the commonest code" if at.get("health") and not answered else "against the mean"

    return read


def action_use(source: Source) -> Measure:
    """(E_const - E_act) / E_const, of flow losses."""
    return replace(of_source("action use U", source, "use", better="higher"), basis=_constant(source))


def constant_loss(source: Source) -> Measure:
    """E_const of `action_use`."""

    def read(evaluation: Mapping[str, Any]) -> Value:
        flow, use = (found(driven(evaluation, source), key) for key in ("flow", "use"))
        return None if flow is None or use is None else flow / (1.0 - use)

    title = f"flow loss of one constant action, {SAID[source]}"
    return Measure(title=title, read=read, digits=4, basis=_constant(source))


def later_error(through: Source) -> Measure:
    """By how much the next frame's error rises from the IDM's codes to the adapter's, both after the adapter stage."""

    def read(evaluation: Mapping[str, Any]) -> Value:
        idm, adapter = (found(driven(evaluation, each), "next_frame_error") for each in ("idm", through))
        return None if idm is None or adapter is None else adapter - idm

    title = f"rise of next-frame error from the IDM's codes to {SAID[through]}"
    return Measure(title=title, read=read, digits=4, better="lower")


def lost_worth(through: Source) -> Measure:
    """How much of what the IDM's codes are worth, against one constant code, is lost with the adapter's, both after the
    adapter stage: 0 nothing, 1 all of it. A model that hardly uses its codes has little to lose, and can lose all.
    """

    def read(evaluation: Mapping[str, Any]) -> Value:
        idm, adapter = (found(driven(evaluation, each), "flow") for each in ("idm", through))
        use = found(driven(evaluation, "idm"), "use")
        if idm is None or adapter is None or use is None or not 0.0 < use < 1.0:
            return None
        return (adapter - idm) / (idm / (1.0 - use) - idm)

    title = f"share of what codes are worth that is lost from the IDM's to {SAID[through]}"
    return Measure(title=title, read=read, better="lower")


def drop(metric: str, horizon: int, through: Source) -> Measure:
    """By how much the metric gets worse from the IDM's codes to the adapter's, both after the adapter stage."""
    idm, adapter = video("idm", metric, horizon), video(through, metric, horizon)
    sign = 1.0 if idm.better == "higher" else -1.0

    def read(evaluation: Mapping[str, Any]) -> Value:
        first, second = idm.read(evaluation), adapter.read(evaluation)
        return None if first is None or second is None else sign * (first - second)

    title = f"drop of {_VIDEO[metric][0]} at horizon {horizon} from the IDM's codes to {SAID[through]}"
    return Measure(title=title, read=read, digits=idm.digits, better="lower", basis=idm.basis)


def health(source: Source, quantity: str) -> Measure:
    """Codebook health of the worse token, over transitions that are not idle where the run tells them apart."""
    worst = max if quantity == "max_usage" else min

    def read(evaluation: Mapping[str, Any]) -> Value:
        tokens = driven(evaluation, source).get("health") or []
        seen = [token_health(token, quantity) for token in tokens]
        return np.array(worst(seen), float) if seen and None not in seen else None

    title = {"utilisation": "utilisation", "max_usage": "max-usage", "entropy": "entropy (nat)"}[quantity]
    better = "lower" if quantity == "max_usage" else "higher"
    return Measure(title=f"{title}, worse token, {SAID[source]}", read=read, better=better)


def token_health(token: Mapping[str, float | None], quantity: str) -> float | None:
    """Of one token, without idle transitions where that is told."""
    moving = token.get(f"{quantity}_moving")
    return token.get(quantity) if moving is None else moving


def collapsed(stored: StoredCell, source: Source = "learned") -> tuple[str, ...] | None:
    """By which of the paper's thresholds a token of the run's codebook has collapsed, by default when the latent-action
    stages end; none for a healthy one, None when there are no codes.
    """
    values = {quantity: health(source, quantity).mean(stored) for quantity in COLLAPSE}
    if None in values.values():
        return None
    signs = {"max_usage": -1.0}
    beyond = {name: signs.get(name, 1.0) * (values[name] - border) < 0 for name, border in COLLAPSE.items()}
    return tuple(name for name, crossed in beyond.items() if crossed)


def _probe_gain(evaluation: Mapping[str, Any]) -> Value:
    probe, constant = found(evaluation, "probe", "l1"), found(evaluation, "probe", "l1_constant")
    return None if probe is None or constant is None else constant - probe


USE, USE_AFTER = action_use("learned"), action_use("idm")
SHUFFLED = of_source("shuffled ratio", "learned", "shuffled_ratio")
NEXT_FRAME, NEXT_FRAME_ADAPTED = (
    of_source("next-frame error", source, "next_frame_error", digits=4, better="lower")
    for source in ("learned", "adapter")
)
PROBE = number("probe L1, mean over action dimensions", "probe", "l1", digits=4, better="lower")
PROBE_CONSTANT = number("L1 of the constant predictor", "probe", "l1_constant", digits=4)
PROBE_GAIN = Measure(title="probe L1 below the constant predictor's", read=_probe_gain, digits=4, better="higher")

HEALTH = tuple(health("learned", quantity) for quantity in COLLAPSE)
PREDICTION = (
    *(video("learned", metric, horizon) for metric in VIDEO_METRICS for horizon in HORIZONS),
    NEXT_FRAME,
    USE,
    of_source("flow loss of the right actions", "learned", "flow", digits=4, better="lower"),
    constant_loss("learned"),
    SHUFFLED,
)
DISPLACEMENT = number("R2 of the gripper's displacement, read linearly", "probe", "displacement_r2", better="higher")
_DIMENSIONS = ("x", "y", "z", "rotation about x", "about y", "about z", "gripper")


def _dimension(place: int, name: str) -> Measure:
    """The probe's error of one action dimension below that of a constant, as a share of this."""

    def read(evaluation: Mapping[str, Any]) -> Value:
        error, constant = (found(evaluation, "probe", f"{key}_per_dimension") for key in ("l1", "l1_constant"))
        if error is None or constant is None or error.size != len(_DIMENSIONS) or not constant[place]:
            return None
        return np.array(1.0 - error[place] / constant[place])

    return Measure(title=f"probe L1 below the constant predictor's, as a share: {name}", read=read, better="higher")


PROBES = (
    PROBE,
    PROBE_CONSTANT,
    *(_dimension(place, name) for place, name in enumerate(_DIMENSIONS)),
    DISPLACEMENT,
    number("R2 of the gripper's destination, read linearly", "probe", "destination_r2"),
    number("leak check passed (1) or not (0)", "leak", "passed", digits=0, better="higher"),
)
TRANSFER = tuple(
    number(f"code transfer: {title}", "transfer", key, better=better)
    for key, title, better in (
        ("ceiling", "what the gripper's locator allows, on real frames", None),
        ("own", "a clip's own codes", "higher"),
        ("transferred", "another clip's codes", "higher"),
        ("by_chance", "by chance", None),
        ("chance", "by chance, of one draw of clips (runs that measured no other)", None),
        ("pull", "pull (0: codes name movements, 1: codes name places; nothing where they do not transfer)", None),
    )
)
_THROUGH: tuple[Source, ...] = ("adapter", "adapter_codes")
_PLAYED = ("reach", "push")
CONFUSION = (
    number("adapter picks the IDM's code, mean over tokens", "adapter", "confusion", "accuracy", better="higher"),
    number("share of the commonest code, mean over tokens", "adapter", "confusion", "majority"),
)
ADAPTED = (*(video(source, "psnr", HORIZONS[-1]) for source in ("idm", *_THROUGH)), *CONFUSION)
"""In short: what becomes of codes when real actions take their place."""
ADAPTATION = (
    *(
        measure
        for metric in VIDEO_METRICS
        for horizon in HORIZONS
        for measure in (
            *(video(source, metric, horizon) for source in ("idm", *_THROUGH)),
            *(drop(metric, horizon, source) for source in _THROUGH),
        )
    ),
    *(
        of_source("next-frame error", source, "next_frame_error", digits=4, better="lower")
        for source in ("idm", *_THROUGH)
    ),
    *(action_use(source) for source in ("idm", *_THROUGH)),
    later_error("snapped_adapter"),
    lost_worth("snapped_adapter"),
    *(health(source, quantity) for quantity in COLLAPSE for source in ("idm", "adapter")),
    *CONFUSION,
)


def planned(
    title: str, key: str, *, less: str | None = None, better: Literal["higher", "lower"] | None = None
) -> Measure:
    """Of the offline look at plans, one number a clip; minus what stands under ``less``."""

    def read(evaluation: Mapping[str, Any]) -> Value:
        value = found(evaluation, "planning", key)
        subtracted = np.array(0.0) if less is None else found(evaluation, "planning", less)
        return None if value is None or subtracted is None else value - subtracted

    def basis(evaluation: Mapping[str, Any]) -> str | None:
        about = evaluation.get("planning")
        return f"{about.get('about')}, {about.get('clips')} clips" if about else None

    return Measure(title=title, read=read, better=better, basis=basis)


def played(
    title: str,
    key: str,
    *,
    over: str | None = None,
    category: str | None = None,
    scale: float = 1.0,
    digits: int = 3,
    better: Literal["higher", "lower"],
) -> Measure:
    """Of the episodes in the simulator, one number a goal: ``scale`` times what stands under ``key``, over what stands
    under ``over``; of one ``category``.
    """

    def read(evaluation: Mapping[str, Any]) -> Value:
        values = found(evaluation, "episodes", key)
        if values is None:
            return None
        if over is not None:
            values = values / found(evaluation, "episodes", over)
        if category is not None:
            values = values[[each == category for each in evaluation["episodes"]["category"]]]
        return scale * values if values.size else None

    def basis(evaluation: Mapping[str, Any]) -> str | None:
        return (evaluation.get("episodes") or {}).get("basis")

    return Measure(title=title, read=read, digits=digits, better=better, basis=basis, each="goals")


def _follows(evaluation: Mapping[str, Any]) -> Value:
    ratio = found(evaluation, "planning", "recorded_to_rest")
    return None if ratio is None else 1.0 - ratio


COSINE = planned("cosine of planned and recorded movement", "cosine", better="higher")
COSINE_GAIN = planned(
    "that cosine, minus that of plans to another clip's goal", "cosine", less="cosine_by_chance", better="higher"
)
FOLLOWS = Measure(
    title="by what share the recorded actions cost less than resting, as the model imagines both",
    read=_follows,
    better="higher",
    basis=COSINE.basis,
)
SUCCESS = played("share of goals reached in the simulator", "success", better="higher")
CLOSEST = played("closest distance to the goal (cm)", "closest", scale=100.0, digits=2, better="lower")
PLANNING = (
    FOLLOWS,
    COSINE,
    COSINE_GAIN,
    planned("cost of the plan over that of resting, both as the model imagines them", "cost_to_rest"),
    SUCCESS,
    *(played(f"share reached, {each} alone", "success", category=each, better="higher") for each in _PLAYED),
    CLOSEST,
    played("closest distance over that at the start", "closest", over="start", better="lower"),
)
"""How a system plans over real actions: held-out clips first, then episodes."""
