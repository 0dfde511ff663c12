"""Laws that something plugged in must keep, examined one by one: what was asked of which method, and what came back."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Status = Literal["pass", "note", "fail"]
"""``note``: allowed, but its owner should know."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One law, whose ``method`` it is about, and for a note or a failure what was expected and what came."""

    method: str
    law: str
    status: Status
    message: str = ""

    def __str__(self) -> str:
        told = f": {self.message}" if self.message else ""
        return f"{self.status:<5} {self.method:<15} {self.law}{told}"


class BrokenLaw(Exception):
    """What was expected and what came."""


class Examination:
    """Collects findings; ``broken`` tells whether one of them is a failure."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    @property
    def broken(self) -> bool:
        """Whether a law is broken so far."""
        return any(finding.status == "fail" for finding in self.findings)

    @contextmanager
    def law(self, method: str, text: str) -> Iterator[None]:
        """Inside, ``BrokenLaw`` and whatever foreign code raises become a failure of this law; a pass otherwise, unless
        a note was made of it.
        """
        before = len(self.findings)
        try:
            yield
        except BrokenLaw as broken:
            found = Finding(method=method, law=text, status="fail", message=str(broken))
        except Exception as error:  # foreign code may raise anything
            found = Finding(method=method, law=text, status="fail", message=f"it raised {told(error)}")
        else:
            if len(self.findings) > before:
                return
            found = Finding(method=method, law=text, status="pass")
        self.findings[before:] = [found]

    def note(self, method: str, law: str, message: str) -> None:
        """Something that is allowed."""
        self.findings.append(Finding(method=method, law=law, status="note", message=message))


def told(error: BaseException) -> str:
    """An exception's type, words and place: the last line that is not an installed package's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = "".join(f" ({frame.filename}, line {frame.lineno})" for frame in own[-1:])
    return f"{type(error).__name__}: {error}{place}"


def expect(condition: bool, expected: str, got: object) -> None:
    """Raise BrokenLaw unless ``condition``."""
    if not condition:
        raise BrokenLaw(f"expected {expected}, got {got}")


def expect_attributes(thing: object, counts: Sequence[str], methods: Sequence[str]) -> None:
    """``counts`` are whole numbers of 1 or more, ``methods`` can be called."""
    for name in (*counts, *methods):
        expect(hasattr(thing, name), f"an attribute {name}", f"a {type(thing).__name__} without one")
    for name in counts:
        value = getattr(thing, name)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        expect(whole, f"{name} to be a whole number of 1 or more", repr(value))
    for name in methods:
        expect(callable(getattr(thing, name)), f"{name} to be a method", repr(getattr(thing, name)))


def expect_tensor(value: Any, shape: tuple[int, ...] | None, *, of: str = "a result", floats: bool = True) -> Tensor:
    """``value`` itself, a finite tensor of floats and of ``shape`` (None: any)."""
    expect(isinstance(value, Tensor), f"{of} to be a tensor", type(value).__name__)
    if shape is not None:
        expect(tuple(value.shape) == shape, f"{of} of shape {shape}", tuple(value.shape))
    expect(value.is_floating_point() == floats, f"{of} of floating point", value.dtype)
    bad = int((~torch.isfinite(value)).sum())
    expect(bad == 0, f"{of} of finite numbers", f"{bad} of {value.numel()} NaN or infinite")
    return value


def expect_same(found: Tensor, wanted: Tensor, tolerance: float, expected: str) -> None:
    """Equal up to ``tolerance`` times how far ``wanted`` reaches from its mean."""
    expect(found.shape == wanted.shape, f"{expected}, of shape {tuple(wanted.shape)}", tuple(found.shape))
    gap = distance(found, wanted)
    expect(gap <= tolerance, expected, f"a largest difference of {gap:.2g} of their range")


def distance(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, in units of how far ``wanted`` reaches from its mean (1 where it is constant)."""
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    reach = (wanted - wanted.mean()).abs().max().item()
    return (found - wanted).abs().max().item() / (reach or 1.0)


def expect_untouched(name: str, now: Tensor, before: Tensor) -> None:
    """Arguments belong to the caller."""
    expect(torch.equal(now, before), f"{name} left as given", f"{int((now != before).sum())} changed values")
