"""Decimation of visual meshes: fewer triangles, same surface, collision untouched, a cache that may break."""

from pathlib import Path

import mujoco
import numpy as np
import pytest
import trimesh

from colaworld.envs.decimate import cache_folder, decimate_visual_meshes
from colaworld.envs.render import RenderProfile, choose_profile

SCENE = """
<mujoco>
  <asset><mesh name="seen" file="ball.obj"/><mesh name="touched" file="ball.obj"/></asset>
  <worldbody>
    <geom type="plane" size="1 1 0.1"/>
    <body pos="0 0 0.3"><freejoint/>
      <geom type="mesh" mesh="seen" contype="0" conaffinity="0" group="1" mass="0"/>
      <geom type="mesh" mesh="touched" group="0" mass="1"/>
    </body>
  </worldbody>
</mujoco>
"""


@pytest.fixture()
def ball(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mujoco.MjModel:
    """A ball of radius 0.1 m with 5,120 triangles, once to look at and once to touch."""
    monkeypatch.setenv("COLAWORLD_CACHE", str(tmp_path / "cache"))
    obj = trimesh.creation.icosphere(subdivisions=4, radius=0.1).export(file_type="obj").encode()
    return mujoco.MjModel.from_xml_string(SCENE, {"ball.obj": obj})


def corners(model: mujoco.MjModel, name: str) -> np.ndarray:
    mesh = model.mesh(name)
    start, count = int(mesh.faceadr[0]), int(mesh.facenum[0])
    return model.mesh_vert[int(mesh.vertadr[0]) + model.mesh_face[start : start + count]]


def test_fewer_triangles_on_the_same_surface(ball: mujoco.MjModel) -> None:
    touched = corners(ball, "touched").copy()
    centre = touched.reshape(-1, 3).mean(axis=0)
    left = decimate_visual_meshes(ball, 0.05)
    assert left == 5120 + len(corners(ball, "seen"))
    assert 1000 < len(corners(ball, "seen")) <= 1500  # a floor keeps small meshes in shape
    radii = np.linalg.norm(corners(ball, "seen").reshape(-1, 3) - centre, axis=1)
    np.testing.assert_allclose(radii, 0.1, atol=2e-3)
    np.testing.assert_array_equal(corners(ball, "touched"), touched)
    seen = ball.mesh("seen").id
    start = ball.mesh_normaladr[seen]
    normals = ball.mesh_normal[start : start + ball.mesh_normalnum[seen]]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)


def test_the_ball_falls_as_before(ball: mujoco.MjModel) -> None:
    def fall() -> np.ndarray:
        data = mujoco.MjData(ball)
        mujoco.mj_step(ball, data, 300)
        return data.qpos.copy()

    before = fall()
    decimate_visual_meshes(ball, 0.05)
    np.testing.assert_array_equal(fall(), before)


def test_the_cache_is_used_and_a_broken_file_is_made_again(ball: mujoco.MjModel) -> None:
    obj = trimesh.creation.icosphere(subdivisions=4, radius=0.1).export(file_type="obj").encode()
    decimate_visual_meshes(ball, 0.05)
    (stored,) = (cache_folder() / "meshes").iterdir()
    content = stored.read_bytes()
    for damage in (content, content[: len(content) // 2], b""):
        stored.write_bytes(damage)
        again = mujoco.MjModel.from_xml_string(SCENE, {"ball.obj": obj})
        decimate_visual_meshes(again, 0.05)
        np.testing.assert_array_equal(corners(again, "seen"), corners(ball, "seen"))
        assert [path.name for path in stored.parent.iterdir()] == [stored.name]


def test_without_a_writable_cache_it_still_works(ball: mujoco.MjModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLAWORLD_CACHE", "/proc/nowhere")
    assert decimate_visual_meshes(ball, 0.05) < 7000


def test_profiles_choose_by_size_and_name_nonsense() -> None:
    assert [choose_profile(None, size, size).name for size in (64, 128, 129)] == ["lite", "lite", "full"]
    with pytest.raises(ValueError, match=r"mesh_fraction must lie in \(0, 1\], got 0.0"):
        RenderProfile(name="x", multisamples=0, shadows=True, reflections=True, mesh_fraction=0.0)
    with pytest.raises(ValueError, match="supersample must be 1 or more, got 0"):
        RenderProfile(name="x", multisamples=0, shadows=True, reflections=True, supersample=0)
