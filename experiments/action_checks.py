"""Are codes actions, and does the adapter speak them? Two checks beside U, the shuffled ratio and the linear probe.

**Code transfer.** Codes read off one clip (the donor) drive the start of another: does the arm do the same? It is
measured as Pearson's correlation, over clips and steps and pooled over x, y, z (each about its own mean), of how far
the located gripper has come since the start, with how far the donor's really came. Correlation and not R2: imagined
arms move too little as a rule, because a mean future is blurred, and R2 would take a short movement in the right
direction for none at all. Start, donor and the clips that stand for chance are of three trajectories of one scene:
windows of one trajectory show the same arm on the same way.

Displacement counts from the start and not from the frame before, since codes that name a *destination* carry the arm to
the donor's path and then along it, with the donor's own steps. ``pull`` tells the two apart: imagined displacement is
regressed on the donor's displacement and on the gap between the two starts. Codes that name movements leave the gap
alone (0), codes that name places close it (1).

**Adapter confusion.** The codes that inverse dynamics reads against those that the adapter gives for the same steps.

Shapes: frames uint8 ``(n, T, 3, height, width)``, positions ``(n, T, 3)`` metres, codes ``(..., tokens)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import bootstrap, entropy
from torch import Tensor

from colaworld.adapters.system import ColaSystem
from colaworld.experiments.batches import derived_seed
from colaworld.experiments.intervals import Interval
from colaworld.models.clip_imagination import over_frames
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.models.imagination import Imagination, given

Locator = Callable[[Tensor], Tensor]
"""Latents ``(..., C, h, w)`` -> positions ``(..., 3)``."""
SHUFFLES = 20


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """Correlations of displacement since the start, over ``n`` pairs of clips and ``horizon`` steps."""

    n: int
    horizon: int
    ceiling: float
    """Real frames instead of imagined ones, their own clip's displacement: what the locator allows (1 where it also
    says what is real)."""
    own: float
    """Codes drive the start they were read from."""
    transferred: float
    """Codes drive another start: with their donor's displacement."""
    transferred_interval: Interval
    """95 %, by resampling trajectories of starts, each with all of its pairs."""
    by_chance: float
    """The same imagined video with the displacements of all clips of its scene from trajectories that had no part in
    it: one of them for each start would be a chance result itself."""
    context: float
    """The same imagined video with what the start's own clip did: high where the context decides, not the codes."""
    pull: float
    """0: codes name movements, 1: codes name places."""
    per_dimension: dict[str, tuple[float, float, float]]
    """Each correlation for x, y and z alone."""


def derangement(
    count: int, seed: int, scenes: Sequence[str] | None = None, trajectories: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Numbers of starts and of the donor of each, a clip of another trajectory of the same scene; without
    ``trajectories`` every clip is one.

    Every clip of a scene is once each of the two, but for those by which one trajectory has more than all others of its
    scene. Scenes of fewer than three trajectories are left out. ValueError when that leaves none.
    """
    least = "3 clips" if trajectories is None else "clips of 3 trajectories"
    scenes = ["" for _ in range(count)] if scenes is None else list(scenes)
    trajectories = [str(number) for number in range(count)] if trajectories is None else list(trajectories)
    for what, these in (("scenes", scenes), ("trajectories", trajectories)):
        if len(these) != count:
            raise ValueError(f"{count} clips need as many {what}, got {len(these)}")
    draw = np.random.default_rng(derived_seed(seed, "derangement", count))
    rows: list[tuple[int, int]] = []
    for scene in dict.fromkeys(scenes):
        drawn = draw.permutation([number for number, each in enumerate(scenes) if each == scene]).tolist()
        clips_of: dict[str, list[int]] = {}
        for number in drawn:
            clips_of.setdefault(trajectories[number], []).append(number)
        if len(clips_of) >= 3:
            largest = max(clips_of.values(), key=len)
            del largest[len(drawn) - len(largest) :]
            # Trajectory by trajectory, each clip's donor comes as many places before it as the largest has clips: that
            # is in another one, the ring being at least twice as long.
            ring = [number for clips in clips_of.values() for number in clips]
            rows += zip(ring, np.roll(ring, len(largest)).tolist(), strict=True)
    if not rows:
        raise ValueError(f"code transfer needs {least} of one scene, got {count} clips of {len(set(scenes))} scenes")
    start, donor = torch.from_numpy(np.array(sorted(rows), dtype=np.int64)).unbind(dim=1)
    return start, donor


def bystanders(
    start: Tensor, donor: Tensor, scenes: Sequence[str] | None = None, trajectories: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """(place in ``start``, number of a clip) of every clip of a start's scene whose trajectory is neither the start's
    nor the donor's; without ``trajectories`` every clip is one.
    """
    places, others = torch.cartesian_prod(torch.arange(len(start)), start).unbind(dim=1)
    kept = (others != start[places]) & (others != donor[places])
    if scenes is not None:
        numbers = _numbered(scenes)
        kept &= numbers[others] == numbers[start[places]]
    if trajectories is not None:
        numbers = _numbered(trajectories)
        kept &= (numbers[others] != numbers[start[places]]) & (numbers[others] != numbers[donor[places]])
    return places[kept], others[kept]


def _numbered(names: Sequence[str] | Sequence[int]) -> Tensor:
    """A number for each different name, in the place of the names."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names])


@torch.no_grad()
def code_transfer(
    system: ColaSystem,
    frames: Tensor,
    locator: Locator,
    *,
    horizon: int,
    seed: int,
    ee_pos: Tensor | None = None,
    scenes: Sequence[str] | None = None,
    trajectories: Sequence[str] | None = None,
) -> TransferReport:
    """Drive starts with their own and with others' codes for ``horizon`` steps beyond the two context frames.

    Real displacements are those of ``ee_pos (n, T, 3)``, or of the located gripper where it is None. Puts the system's
    parts in evaluation mode. ``scenes`` and ``trajectories`` say of each clip what it is a window of; without them all
    are of one scene, each of a trajectory of its own. ValueError for clips of fewer than 2 + horizon frames, positions
    that are not finite, too few trajectories of a scene, and a system without a latent action model.
    """
    length = CONTEXT_FRAMES + horizon
    if horizon < 1 or frames.shape[1] < length:
        raise ValueError(f"code transfer over horizon={horizon} needs clips of {length} frames, got {frames.shape[1]}")
    if ee_pos is not None and not torch.isfinite(ee_pos).all():
        raise ValueError(f"{int((~torch.isfinite(ee_pos)).sum())} of {ee_pos.numel()} numbers of ee_pos are not finite")
    start, donor = derangement(len(frames), seed, scenes, trajectories)
    place, bystander = bystanders(start, donor, scenes, trajectories)
    for part in system.parts().values():
        part.eval()
    model = system.model()
    latents = system.codec.encode(frames[:, :length].to(next(system.video.parameters()).device))
    codes, known = model.latent_actions(latents).latents, CONTEXT_FRAMES - 1
    imagination = over_frames(Imagination(system.video, system.conditioner, system.info.flow), system.codec)
    state = imagination.start(latents[:, :CONTEXT_FRAMES], codes[:, :known])

    def imagined(whose: Tensor) -> Tensor:
        """How far the gripper has come in starts driven by the codes of clips ``whose``: ``(n, horizon, 3)``."""
        future = imagination.roll_out(state, given(codes[whose, known:]), horizon)
        return locator(future).cpu().double() - located[:, :1]

    located = locator(latents[:, known:]).cpu().double()
    places = located if ee_pos is None else ee_pos[:, known:length].cpu().double()
    real, seen = places[:, 1:] - places[:, :1], located[:, 1:] - located[:, :1]
    everyone = torch.arange(len(frames))
    own, driven = imagined(everyone), imagined(everyone.index_copy(0, start, donor))[start]
    pairs = {
        "ceiling": (seen, real),
        "own": (own, real),
        "transferred": (driven, real[donor]),
        "by_chance": (driven[place], real[bystander]),
        "context": (driven, real[start]),
    }
    return TransferReport(
        n=len(start),
        horizon=horizon,
        **{name: correlation(*pair) for name, pair in pairs.items()},
        transferred_interval=_correlation_interval(
            *pairs["transferred"],
            seed=seed,
            clusters=start if trajectories is None else _numbered(trajectories)[start],
        ),
        pull=_pull(driven, real[donor], (places[donor] - places[start])[:, :1]),
        per_dimension={
            name: tuple(correlation(a[..., k : k + 1], b[..., k : k + 1]) for k in range(3))
            for name, (a, b) in pairs.items()
        },
    )


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, of ``(n, H, d)`` with the same, pooled over dimensions that are each centred alone; 0 where one never
    varies.
    """
    return float(_pearson(*_moments(a, b).sum(dim=0)))


def _moments(a: Tensor, b: Tensor) -> Tensor:
    """Of each clip: the sums of products ab, aa, bb about the mean over all clips, ``(n, 3)``."""
    a, b = (x.double() - x.double().mean(dim=(0, 1)) for x in (a, b))
    return torch.stack([(a * b).sum(dim=(1, 2)), (a * a).sum(dim=(1, 2)), (b * b).sum(dim=(1, 2))], dim=1)


def _pearson(ab: Tensor, aa: Tensor, bb: Tensor) -> Tensor:
    return torch.where(aa * bb > 0, ab / (aa * bb).clamp_min(torch.finfo(torch.float64).tiny).sqrt(), 0.0)


def _correlation_interval(a: Tensor, b: Tensor, *, seed: int, clusters: Tensor) -> Interval:
    """95 %, over ``clusters (n,)`` of pairs, which are drawn whole: neither the steps of one clip nor clips of one
    trajectory are independent.
    """

    def statistic(ab: np.ndarray, aa: np.ndarray, bb: np.ndarray, axis: int) -> np.ndarray:
        return _pearson(*(torch.from_numpy(sums.sum(axis=axis)) for sums in (ab, aa, bb))).numpy()

    numbers = _numbered(clusters.tolist())
    moments = torch.zeros(int(numbers.max()) + 1, 3, dtype=torch.float64).index_add_(0, numbers, _moments(a, b))
    estimate, sums = correlation(a, b), tuple(moments.T.numpy())
    result = bootstrap(
        sums, statistic, paired=True, vectorized=True, method="percentile", rng=np.random.default_rng(seed)
    )
    interval = result.confidence_interval
    return Interval(estimate=estimate, low=float(interval.low), high=float(interval.high))


def _pull(driven: Tensor, moved: Tensor, gap: Tensor) -> float:
    """The weight of the gap ``(n, 1, 3)`` where ``driven (n, H, 3)`` is regressed on it and on ``moved``."""
    columns = [x - x.mean(dim=(0, 1)) for x in (moved, gap.expand_as(moved), driven)]
    moved, gap, driven = (column.flatten() for column in columns)
    return float(torch.linalg.lstsq(torch.stack([moved, gap], dim=1), driven[:, None], driver="gelsd").solution[1])


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Per token. ``matrices[k] (entries, entries)``: how often inverse dynamics read the row's code where the adapter
    gave the column's.
    """

    matrices: tuple[Tensor, ...]
    accuracy: tuple[float, ...]
    majority: tuple[float, ...]
    """The accuracy of always answering the code that is read most."""
    information: tuple[float, ...]
    """Mutual information over the mean of both entropies, in [0, 1]; 0 where neither side varies."""
    information_by_chance: tuple[float, ...]
    """The same with the adapter's codes shuffled: not 0 where steps are few beside the cells of the matrix."""


def adapter_confusion(read: Tensor, adapted: Tensor, entries: int | Sequence[int], *, seed: int = 0) -> Confusion:
    """Integer codes ``(..., tokens)`` of inverse dynamics and of the adapter, each below ``entries`` (one number, or
    one for each token).

    ValueError for codes of different shapes, none, or beyond ``entries``.
    """
    tokens = read.shape[-1]
    sizes = (entries,) * tokens if isinstance(entries, int) else tuple(entries)
    if read.shape != adapted.shape or read.numel() == 0 or len(sizes) != tokens:
        raise ValueError(
            f"a confusion needs as many codes of both and a size for each token, got {tuple(read.shape)}, "
            f"{tuple(adapted.shape)} and sizes {sizes}"
        )
    rows = []
    generator = torch.Generator().manual_seed(derived_seed(seed, "confusion"))
    for token, size in enumerate(sizes):
        a, b = (codes[..., token].flatten().cpu() for codes in (read, adapted))
        if min(int(a.min()), int(b.min())) < 0 or max(int(a.max()), int(b.max())) >= size:
            found = f"{int(a.min())}..{int(a.max())} and {int(b.min())}..{int(b.max())}"
            raise ValueError(f"codes of token {token} must be 0..{size - 1}, got {found}")
        matrix = _counts(a, b, size)
        shuffled = [
            _information(_counts(a, b[torch.randperm(len(b), generator=generator)], size)) for _ in range(SHUFFLES)
        ]
        majority = float(matrix.sum(dim=1).max()) / len(a)
        rows.append((matrix, float((a == b).float().mean()), majority, _information(matrix), float(np.mean(shuffled))))
    matrices, accuracy, most, information, chance = (tuple(column) for column in zip(*rows, strict=True))
    return Confusion(
        matrices=matrices,
        accuracy=accuracy,
        majority=most,
        information=information,
        information_by_chance=chance,
    )


def _counts(a: Tensor, b: Tensor, size: int) -> Tensor:
    return torch.bincount(a * size + b, minlength=size * size).reshape(size, size)


def _information(matrix: Tensor) -> float:
    counts = matrix.numpy()
    rows, columns, cells = entropy(counts.sum(axis=1)), entropy(counts.sum(axis=0)), entropy(counts.ravel())
    return float(2.0 * max(0.0, rows + columns - cells) / (rows + columns)) if rows + columns > 0 else 0.0
