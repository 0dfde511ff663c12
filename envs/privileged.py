"""What scripted experts may know of a LIBERO scene beside positions: its goal, its drawers and knobs, and how much room
there is. Read from MuJoCo's model and LIBERO's own objects; changes nothing.
"""

from collections.abc import Sequence

import mujoco
import numpy as np

_TOUCHABLE = np.array([1, 0, 0, 0, 0, 0], np.uint8)  # MuJoCo's geom groups: robosuite's first holds what collides
_STRAIGHT_DOWN = np.array([0.0, 0.0, -1.0])


class PrivilegedReads:
    """A part of `LiberoScene`."""

    def joints(self) -> dict[str, float]:
        """Drawers, doors and knobs: joint name to its position, metres or radians."""
        return {name: float(self.data.qpos[address]) for name, address in self._articulated.items()}

    def joints_of(self, name: str) -> tuple[str, ...]:
        """The joints that LIBERO's ``open``, ``close`` and ``turnon`` read for a region or fixture of this name."""
        owner = self._env.object_sites_dict.get(name) or self._env.fixtures_dict.get(name)
        found = tuple(owner.joints) if owner is not None else ()
        if not found:
            raise ValueError(f"{name!r} has no joint that could be opened, closed or turned")
        return found

    def holds(self, condition: Sequence[str]) -> bool:
        """Whether one of LIBERO's predicates, such as ``("on", "akita_black_bowl_1", "plate_1")``, holds now."""
        return bool(self._env._eval_predicate(list(condition)))

    def articulated_conditions(self, word: str) -> list[tuple[str, str]]:
        """All conditions ``(word, region or fixture)`` for LIBERO's ``open``, ``close`` or ``turnon`` in this scene;
        of what opens, drawers only."""
        knobs = word == "turnon"
        owners = self._env.fixtures_dict if knobs else self._env.object_sites_dict
        return [
            (word, name)
            for name, owner in owners.items()
            if getattr(owner, "joints", ())
            and getattr(self._env.object_states_dict[name], "has_turnon_affordance", False) == knobs
            and (knobs or all(self._slides(joint) for joint in owner.joints))
        ]

    @property
    def goal(self) -> tuple[tuple[str, ...], ...]:
        """The task's own goal: LIBERO's predicates, all of which have to hold."""
        return tuple(tuple(condition) for condition in self._env.parsed_problem["goal_state"])

    def extents(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The corners (low, high) of the box around what can be touched of a movable object, metres: float64 (3,)."""
        bodies = self.bodies_of(name)
        corners = [self._corners(geom) for geom in self._touchable() if self.model.geom_bodyid[geom] in bodies]
        return np.concatenate(corners).min(axis=0), np.concatenate(corners).max(axis=0)

    def middle_of(self, name: str) -> np.ndarray:
        """The middle of that box, metres: float64 (3,)."""
        return sum(self.extents(name)) / 2

    def handle(self, joint: str) -> np.ndarray:
        """The middle of a drawer's handle, metres: float64 (3,); the part farthest along its way out."""
        way, body = self.way_out(joint), self.model.joint(joint).bodyid[0]
        geoms = [geom for geom in self._touchable() if self.model.geom_bodyid[geom] == body]
        return max((self.data.geom_xpos[geom] for geom in geoms), key=lambda place: float(place @ way)).copy()

    def handles(self) -> dict[str, np.ndarray]:
        """Where the handles of all drawers are, by the name of the joint, metres: float64 (3,)."""
        return {joint: self.handle(joint) for joint in self._articulated if self._slides(joint)}

    def open_position(self, joint: str) -> float:
        """Where a drawer's joint is when it is out, metres: the end of its range that is farther from 0."""
        return float(max(self.model.joint(joint).range, key=abs))

    def way_out(self, joint: str) -> np.ndarray:
        """Unit vector (3,), world frame, along which a drawer opens: where the larger part of its range lies."""
        low, high = self.model.joint(joint).range
        return np.sign(low + high) * self.data.xaxis[self.model.joint(joint).id]

    def knob(self, joint: str) -> tuple[np.ndarray, np.ndarray]:
        """Where a knob's axis stands (3,), metres, and the unit vector (2,) along its ridge."""
        body = self.model.joint(joint).bodyid[0]
        ridge = -self.data.xmat[body].reshape(3, 3)[:2, 1]
        return self.data.xanchor[self.model.joint(joint).id].copy(), ridge / np.linalg.norm(ridge)

    def height_at(self, place: np.ndarray, *, without: str | None = None) -> float:
        """Height, metres, of what lies on top at ``place`` (2,), the robot and the object ``without`` left out."""
        hidden = self._robot_bodies | (self.bodies_of(without) if without is not None else set())
        geom, start = np.array([-1], np.int32), 3.0
        for _ in range(50):
            origin = np.array([place[0], place[1], start])
            far = mujoco.mj_ray(self.model, self.data, origin, _STRAIGHT_DOWN, _TOUCHABLE, 1, -1, geom)
            if geom[0] < 0:
                return 0.0  # the floor, which is only a picture in some scenes
            if self.model.geom_bodyid[geom[0]] not in hidden:
                return start - far
            start -= far + 1e-4
        raise ValueError(f"more than 50 parts of the robot lie above {place}")

    def _slides(self, joint: str) -> bool:
        return bool(self.model.joint(joint).type[0] == mujoco.mjtJoint.mjJNT_SLIDE)

    def _touchable(self) -> list[int]:
        return np.flatnonzero(self.model.geom_group == 0).tolist()

    def _corners(self, geom: int) -> np.ndarray:
        """The eight corners (8, 3) of the box around a geom, world frame."""
        middle, half = self.model.geom_aabb[geom, :3], self.model.geom_aabb[geom, 3:]
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
        return (middle + signs * half) @ self.data.geom_xmat[geom].reshape(3, 3).T + self.data.geom_xpos[geom]

    def region_pos(self, name: str) -> np.ndarray:
        """The middle of a region (LIBERO's site) or of a movable object or fixture, metres: float64 (3,)."""
        return self.site_pos(name) if name in self._env.object_sites_dict else self.body_pos(name)

    def site_pos(self, name: str) -> np.ndarray:
        """Position of a named region or site, metres: float64 (3,). Raises ValueError for an unknown name."""
        site = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_SITE, name)
        if site < 0:
            raise ValueError(f"unknown site {name!r}; known: {', '.join(self.site_names)}")
        return self.data.site_xpos[site].copy()

    @property
    def site_names(self) -> tuple[str, ...]:
        """Names of all sites (regions of fixtures, places on the table)."""
        return tuple(self.model.site(index).name for index in range(self.model.nsite))
