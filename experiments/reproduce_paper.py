"""The paper's figures that stand beside ours, never in our columns: another model, other data, other sizes.

Source: arXiv 2510.26433 and accounts of it; OpenSora's STDiT3-XL/2 with 60 thousand steps in all, on LIBERO.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from colaworld.experiments.reproduce_cells import GroupName


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """Rows of figures under a header."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


_PREDICTION = PaperTable(
    title="LIBERO, zero-shot, IDM's codes",
    header=("", "PSNR", "SSIM (%)", "LPIPS (%)", "FVD"),
    rows=(
        ("two-stage 30K + 30K", "23.13", "86.90", "10.22", "167.77"),
        ("CoLA 8K + 52K", "23.33", "87.21", "9.89", "158.36"),
    ),
)
_HEALTH_LINE = ("two-stage, codebook under the adapter", "", "utilisation about 10 %, max-usage about 0.5", "")
PAPER: Mapping[GroupName, PaperTable] = MappingProxyType(
    {
        "warmup": _PREDICTION,
        "freeze": _PREDICTION,
        "gradients": _PREDICTION,
        "probe": PaperTable(
            title="LIBERO, linear probe of frozen latent actions",
            header=("", "L1"),
            rows=(("two-stage LAM 30K", ".1614"), ("CoLA 8K + 22K", ".1623")),
        ),
        "adapter": PaperTable(
            title="LIBERO after adaptation, FVD",
            header=("", "IDM's codes", "real actions through the adapter", "drop (difference)"),
            rows=(("two-stage", "73.54", "115.45", "41.91"), ("CoLA", "74.65", "93.68", "19.03"), _HEALTH_LINE),
        ),
        "planning": PaperTable(
            title="goals reached; LIBERO's two fit 43 and 40 of 44, which Fisher's test does not tell apart (p = 0.36)",
            header=("", "LIBERO, VP2-style (%)", "RoboDesk, VP2 (%)"),
            rows=(("two-stage", "90.91", "7.73"), ("CoLA", "97.73", "21.20")),
        ),
    }
)
