"""What must be said about data that others recorded, since their files do not say it: which camera, which way up, which
frame an action belongs to, how fast.

Every field left at its default means "as this kind of source usually is"; a field that no source of a run has a use for
is refused, so that nobody believes to have changed something.
"""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from colaworld.envs.pictures import Orientation

Pairing = Literal["obs_after_action", "obs_before_action"]
RenderProfileName = Literal["full", "lite"]
CONTROL_RATE = 20.0
"""LIBERO's control steps a second."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How to read data that colaworld did not record; colaworld's own recordings need none of it but ``stream``."""

    camera: str | None = None
    """Which camera: agentview or eye_in_hand in LIBERO's files, a feature's key in a LeRobot data set."""
    orientation: Orientation | None = None
    """How the stored pictures lie; default: upside_down in LIBERO's files, upright elsewhere. LIBERO in LeRobot's
    format was turned by half a circle from upside down: it is mirrored."""
    pairing: Pairing | None = None
    """LIBERO's files: whether obs k was recorded after actions k (default, the official files) or before."""
    fps: float | None = None
    """Rows a second, where the source's own word is missing or wrong."""
    rate: float = 4.0
    """Frames a second that the model sees."""
    height: int | None = None
    """Pixels, with --source.width: crop to that shape from the centre and resize; default: as stored (videos: 64)."""
    width: int | None = None
    """Pixels."""
    render_profile: RenderProfileName = "full"
    """How the simulator must draw for a system trained on this data; lite to go on from weights made for it."""
    stream: bool = False
    """Read the pictures of .hdf5 files when a clip asks for them, for data larger than memory: the same clips. Of our
    own recordings an unpacked copy is kept beside each file. LeRobot's and videos are always read so."""

    def __post_init__(self) -> None:
        for name, kind in (("orientation", Orientation), ("pairing", Pairing), ("render_profile", RenderProfileName)):
            value = getattr(self, name)
            if value is not None and value not in get_args(kind):
                raise ValueError(f"source option {name} must be one of {', '.join(get_args(kind))}, got {value!r}")
        for name in ("fps", "rate", "height", "width"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"source option {name} must be above 0, got {value}")
        if (self.height is None) != (self.width is None):
            raise ValueError(
                f"source options height and width are given together or not at all, got {self.height} and {self.width}"
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that frames stored with ``height`` and ``width`` are given to the model in."""
        return (self.height, self.width) if self.height and self.width else (height, width)

    def frame_skip(self, fps: float, where: object) -> int:
        """How many rows, ``fps`` a second, lie between two frames of the model. ValueError names ``where`` when
        that is no whole number."""
        if fps < self.rate:
            raise ValueError(f"{where}: {fps:g} frames a second are fewer than the model's rate of {self.rate:g}")
        skip = round(fps / self.rate)
        if abs(skip * self.rate - fps) > 1e-3 * fps:
            raise ValueError(
                f"{where}: {fps:g} frames a second are not a multiple of the model's rate of {self.rate:g}, so actions "
                f"cannot be cut into chunks"
            )
        return skip

    def given(self) -> set[str]:
        """The fields that are not at their default."""
        return {field.name for field in fields(self) if getattr(self, field.name) != field.default}
