"""The collapse guard: reads the codebook's health off a run's watched lines and says whether it has collapsed, whether
it has settled, and whether the warm-up should go on.

Paper: collapse when utilisation < 20 %, max-usage > 50 % or entropy < 1.0 nat; with the second backbone the warm-up
stops when the codebook's figures settle. How settled is settled is not stated in the paper.

Not in the paper: codes can be many and even, and say nothing. Where the world model predicts no better with the right
codes than with one code everywhere, nothing that is trained on them later will make up for it, so that counts as well.

Everything follows from the lines of ``metrics.jsonl`` alone, so a resumed run comes to the verdicts of an unbroken one.
A line is a look when it has ``held_out/utilisation_0`` (see ``colaworld.models.health.health_numbers``). The figures
over moving transitions are judged, those over all only where a line does not say how many move.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log
from typing import Annotated, Any, Literal

import tyro

from colaworld.models.health import LEAST_ENTROPY, LEAST_UTILISATION, MOST_USAGE

PROLONGED = "warmup"
"""The stage that ``extend`` prolongs."""
FIGURES = ("utilisation", "max_usage", "entropy")


class CodebookCollapse(RuntimeError):
    """The codebook has collapsed and the guard was told to stop; the message is the verdict's sentence."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What to do about a collapsed codebook, and what counts as one."""

    action: Annotated[Literal["off", "warn", "stop", "extend"], tyro.conf.arg(name="")] = "warn"
    """On a collapsed codebook: nothing, a warning, the end of the run; or a warm-up that goes on until the codebook is
    healthy and has settled, and a warning after it."""
    least_utilisation: float = LEAST_UTILISATION
    """Collapsed when a smaller share of a token's entries is used."""
    most_usage: float = MOST_USAGE
    """Collapsed when one entry has a larger share of a token's codes."""
    least_entropy: float = LEAST_ENTROPY
    """Collapsed when a token's codes have less entropy, in nats."""
    least_action_use: float = 0.01
    """Collapsed when the right codes lower the world model's loss by a smaller share of what it is under the commonest
    code everywhere (``action_use``, over all transitions); a negative one asks for nothing. Not stated in the paper."""
    settle_looks: int = 3
    """Settled when this many looks in a row are healthy and differ little. Not stated in the paper."""
    settle_utilisation: float = 0.1
    """How much a token's utilisation may differ among those looks. Not stated in the paper."""
    settle_entropy: float = 0.1
    """How much a token's entropy may differ among those looks, in nats. Not stated in the paper."""
    most: int = 3
    """The warm-up is prolonged to this many times its planned steps at most."""
    grace: float = 0.25
    """Share of the run's first stage with codes in which a young codebook is not judged."""
    least_transitions: int = 64
    """Looks at fewer moving transitions are not judged."""

    def __post_init__(self) -> None:
        if self.action not in ("off", "warn", "stop", "extend"):
            raise ValueError(f"guard must be 'off', 'warn', 'stop' or 'extend', got {self.action!r}")
        if not self.least_action_use <= 1.0:
            raise ValueError(f"guard: least_action_use must be 1 or less, got {self.least_action_use}")
        for name in ("least_utilisation", "most_usage"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"guard: {name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("least_entropy", "settle_utilisation", "settle_entropy"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"guard: {name} must be 0 or more, got {getattr(self, name)}")
        if self.settle_looks < 2:
            raise ValueError(f"guard: settle_looks must be 2 or more, got {self.settle_looks}")
        for name in ("most", "least_transitions"):
            if getattr(self, name) < 1:
                raise ValueError(f"guard: {name} must be 1 or more, got {getattr(self, name)}")
        if not 0.0 <= self.grace < 1.0:
            raise ValueError(f"guard: grace must lie in [0, 1), got {self.grace}")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the last look of a stage says."""

    why: str
    """One sentence with token, figure and threshold."""
    collapsed: bool = False
    """A token is past a threshold."""
    settled: bool = False
    """The last few looks are healthy and alike."""
    goes_on: bool = False
    """The stage has had its planned steps and should train on until the next look."""
    blind: bool = False
    """Too little moves for a judgement."""
    news: bool = False
    """The look before did not say so: worth telling."""

    def tells(self, before: "Verdict | None") -> bool:
        """Whether this is another state than ``before`` (None: nothing was said yet)."""
        earlier = (False, False, False) if before is None else (before.collapsed, before.goes_on, before.blind)
        return (self.collapsed, self.goes_on, self.blind) != earlier


@dataclass(frozen=True)
class _Look:
    """``transitions`` is infinite when the line does not say; ``tokens`` is empty when nothing moves; ``use`` is None
    where no world model was asked.
    """

    step: int
    young: bool
    transitions: float
    tokens: tuple[dict[str, float], ...]
    use: float | None


class Guard:
    """``entries``: the codebook size of each token; empty for a bottleneck without codes."""

    def __init__(self, config: GuardConfig, entries: Sequence[int]) -> None:
        self.config, self.entries = config, tuple(entries)

    def limit(self, stage: str, planned: int) -> int:
        """The largest number of steps that a stage of ``planned`` steps may come to."""
        return planned * self.config.most if self._prolongs(stage) else planned

    def heed(self, verdict: Verdict) -> None:
        """CodebookCollapse when the codebook has collapsed and the config says stop."""
        if verdict.collapsed and self.config.action == "stop":
            raise CodebookCollapse(verdict.why)

    def judge(self, history: Sequence[Mapping[str, Any]], *, stage: str, planned: int) -> Verdict:
        """The verdict on ``stage``, planned to last ``planned`` steps, as of its last look in ``history`` (the whole
        run's lines from ``metrics.jsonl``, in order).

        ValueError when a look lacks a figure.
        """
        if self.config.action == "off":
            return Verdict(why="the guard is off")
        looks = self._looks(history, stage, planned)
        if not looks:
            return Verdict(why=f"{stage} has shown no codes to judge")
        verdict = self._verdict(looks, stage, planned)
        before = self._verdict(looks[:-1], stage, planned) if looks[1:] else None
        return replace(verdict, news=verdict.tells(before))

    def _prolongs(self, stage: str) -> bool:
        return self.config.action == "extend" and stage == PROLONGED

    def _looks(self, history: Sequence[Mapping[str, Any]], stage: str, planned: int) -> list[_Look]:
        lines = [line for line in history if "held_out/utilisation_0" in line] if self.entries else []
        # A codebook is young in the first stage that has one; a later stage takes over a grown one.
        last_young = self.config.grace * planned if lines and lines[0]["stage"] == stage else 0
        return [self._look(line, line["step"] <= last_young) for line in lines if line["stage"] == stage]

    def _look(self, line: Mapping[str, Any], young: bool) -> _Look:
        normalised = "held_out/transitions_moving" in line or "held_out/utilisation_0_moving" in line
        suffix = "_moving" if normalised else ""
        transitions = float(line.get(f"held_out/transitions{suffix}", inf))
        tokens = range(len(self.entries)) if transitions else ()
        figures = tuple(_figures(line, token, suffix) for token in tokens)
        return _Look(line["step"], young, transitions, figures, line.get("held_out/action_use"))

    def _verdict(self, looks: Sequence[_Look], stage: str, planned: int) -> Verdict:
        last, needed = looks[-1], self.config.least_transitions
        where = f"at step {last.step} of {stage}"
        if last.young:
            return Verdict(why=f"the codebook is young and not judged yet {where}")
        if last.transitions < needed:
            why = f"{last.transitions:.0f} transitions move, a judgement needs {needed} {where}"
            return self._at_the_end(Verdict(why=why, blind=True), last.step, stage, planned)
        complaints, unsettled = self._complaints(last), self._unsettled(looks)
        if complaints:
            verdict = Verdict(why=f"{'; '.join(complaints)} {where}", collapsed=True)
        elif unsettled:
            verdict = Verdict(why=f"the codebook is healthy but has not settled {where}: {unsettled}")
        else:
            verdict = Verdict(why=f"the codebook has settled {where}: {self._differences(looks)}", settled=True)
        return self._at_the_end(verdict, last.step, stage, planned)

    def _at_the_end(self, verdict: Verdict, step: int, stage: str, planned: int) -> Verdict:
        """The same verdict; once a stage that may be prolonged has had its steps, it says whether it goes on."""
        if not self._prolongs(stage) or step < planned:
            return verdict
        if verdict.settled or verdict.blind:
            return replace(verdict, why=f"{stage} ends after {step} steps ({planned} planned): {verdict.why}")
        if step >= self.limit(stage, planned):
            return replace(
                verdict, why=f"{stage} ends after {step} steps ({planned} planned, its limit): {verdict.why}"
            )
        return replace(verdict, why=f"{stage} goes on past its {planned} planned steps: {verdict.why}", goes_on=True)

    def _complaints(self, look: _Look) -> list[str]:
        """One phrase for every figure past its threshold, but for those that a small codebook or window would fail in
        the best of health: utilisation over fewer transitions than entries, entropy above what even use comes to.
        """
        config, phrases = self.config, []
        for token, (figures, entries) in enumerate(zip(look.tokens, self.entries, strict=True)):
            utilisation, usage, entropy = (figures[name] for name in FIGURES)
            usable = min(entries, look.transitions)
            if utilisation < config.least_utilisation and usable == entries:
                phrases.append(f"token {token}: utilisation {utilisation:.3g} below {config.least_utilisation}")
            if usage > config.most_usage:
                phrases.append(f"token {token}: max-usage {usage:.3g} above {config.most_usage}")
            if entropy < config.least_entropy <= log(usable):
                phrases.append(f"token {token}: entropy {entropy:.3g} nat below {config.least_entropy}")
        if look.use is not None and look.use < config.least_action_use:
            found = f"action_use {look.use:.3f} below {config.least_action_use}"
            phrases.append(f"the world model does not use the codes: {found}")
        return phrases

    def _recent(self, looks: Sequence[_Look]) -> list[_Look]:
        seen = [look for look in looks if not look.young and look.transitions >= self.config.least_transitions]
        return seen[-self.config.settle_looks :]

    def _unsettled(self, looks: Sequence[_Look]) -> str | None:
        """Why the last few looks do not count as settled; None when they do."""
        config, recent = self.config, self._recent(looks)
        if len(recent) < config.settle_looks:
            return f"{len(recent)} of {config.settle_looks} looks so far"
        for look in recent:
            if complaints := self._complaints(look):
                return f"{complaints[0]} at step {look.step}"
        for name, most in (("utilisation", config.settle_utilisation), ("entropy", config.settle_entropy)):
            for token, spread in enumerate(_spreads(recent, name)):
                if spread > most:
                    return f"token {token}: {name} changed by {spread:.3g} in {len(recent)} looks, more than {most}"
        return None

    def _differences(self, looks: Sequence[_Look]) -> str:
        recent = self._recent(looks)
        utilisation, entropy = (max(_spreads(recent, name)) for name in ("utilisation", "entropy"))
        return f"in {len(recent)} looks utilisation changed by at most {utilisation:.2g}, entropy by {entropy:.2g} nat"


def _spreads(looks: Sequence[_Look], name: str) -> list[float]:
    """Of each token, how far a figure ranges over the looks."""
    tokens = zip(*(look.tokens for look in looks), strict=True)
    return [max(f[name] for f in figures) - min(f[name] for f in figures) for figures in tokens]


def _figures(line: Mapping[str, Any], token: int, suffix: str) -> dict[str, float]:
    figures = {}
    for name in FIGURES:
        key = f"held_out/{name}_{token}{suffix}"
        if not isinstance(line.get(key), int | float):
            raise ValueError(f"step {line['step']} of {line['stage']}: {key} is {line.get(key)!r}, not a number")
        figures[name] = float(line[key])
    return figures
