"""Chained skills on a toy hand that follows its actions: they arrive, turn, hold and end; chains begin anywhere."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from colaworld.envs.experts import CLOSED, OPEN, RESPONSE
from colaworld.envs.skills import DOWN, TURN, Hand, Phase, Script, grasp, move_to, pull, release, twist


class ToyHand:
    """Moves as OSC_POSE does, roughly: by RESPONSE metres and TURN radians for an action of 1."""

    def __init__(self) -> None:
        self.pos, self.pose = np.zeros(3), DOWN

    def info(self) -> dict:
        return {"ee_pos": self.pos.copy(), "ee_quat": np.roll(self.pose.as_quat(), 1), "objects": {}, "joints": {}}

    def step(self, action: np.ndarray) -> None:
        self.pos = self.pos + RESPONSE * action[:3]
        self.pose = Rotation.from_rotvec(TURN * action[3:6]) * self.pose


def play(script: Script, toy: ToyHand, limit: int = 60) -> list[np.ndarray]:
    actions = []
    for _ in range(limit):
        action = script(toy.info())
        if script.done:
            return actions
        assert action.shape == (7,) and np.abs(action).max() <= 1
        actions.append(action)
        toy.step(action)
    raise AssertionError("the script never ended")


def test_a_move_arrives_turned() -> None:
    toy, target, tilt = ToyHand(), np.array([0.2, -0.1, 0.15]), np.array([0.0, 1.1, 0.4])
    play(Script([Phase("move", lambda hand: move_to(hand, target, tilt=tilt))]), toy)
    assert np.linalg.norm(toy.pos - target) < 0.01
    assert (Rotation.from_rotvec(tilt) * DOWN * toy.pose.inv()).magnitude() < 0.1


def test_a_move_follows_a_place_that_moves() -> None:
    toy, place = ToyHand(), np.array([0.3, 0.0, 0.0])

    def running() -> np.ndarray:
        place[1] = min(place[1] + 0.01, 0.05)
        return place

    play(Script([Phase("move", lambda hand: move_to(hand, running))]), toy)
    np.testing.assert_allclose(toy.pos, [0.3, 0.05, 0.0], atol=0.011)


def test_fingers_close_and_open_and_keep_still() -> None:
    toy = ToyHand()
    away = Phase("move", lambda hand: move_to(hand, [0.1, 0, 0]))
    script = Script([Phase("grasp", grasp), away, Phase("let", release)])
    commands = [action[6] for action in play(script, toy)]
    assert commands[0] == CLOSED and commands[-1] == OPEN
    assert commands == sorted(commands, reverse=True), "closed until the release"


def test_a_pull_goes_straight_until_told() -> None:
    toy = ToyHand()
    way = np.array([0.6, 0.8, 0.0])
    play(Script([Phase("pull", lambda hand: pull(hand, way, lambda: toy.pos @ way > 0.2))]), toy)
    along = float(toy.pos @ way)
    assert 0.2 < along < 0.27 and np.linalg.norm(toy.pos - along * way) < 0.01


def test_a_twist_turns_about_the_upright_axis_only() -> None:
    toy = ToyHand()

    def turned() -> np.ndarray:
        return (toy.pose * DOWN.inv()).as_rotvec()

    play(Script([Phase("twist", lambda hand: twist(hand, lambda: turned()[2] > 0.6))]), toy)
    assert turned()[2] > 0.6 and np.abs(turned()[:2]).max() < 0.05 and np.linalg.norm(toy.pos) < 0.01


def test_a_chain_can_be_entered_later() -> None:
    def stay(count: int):
        def act(hand: Hand):
            for _ in range(count):
                yield np.full(7, count / 64, np.float32)

        return act

    phases = [Phase("two", stay(2)), Phase("three", stay(3))]
    whole, late = play(Script(phases), ToyHand()), play(Script(phases, begin=1), ToyHand())
    assert [round(float(action[0] * 64)) for action in whole] == [2, 2, 3, 3, 3]
    np.testing.assert_array_equal(late, whole[2:])
    with pytest.raises(ValueError, match="2 phases cannot begin at phase 3"):
        Script(phases, begin=3)
