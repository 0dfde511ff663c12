"""Fewer triangles in the meshes that are only looked at, for small pictures on a machine without a GPU.

LIBERO's scenes hold some 250,000 triangles, most of them in the robot's covers, its pedestal and a bowl; at 64x64
nearly all are smaller than a pixel. Only meshes whose geoms take part in no collision are touched, and only their
pictures: masses and inertias were computed when the model was compiled. Results are cached on disk, by mesh.
"""

import hashlib
import os
import tempfile
import zipfile
from pathlib import Path

import fast_simplification
import mujoco
import numpy as np
from scipy.spatial import cKDTree

MIN_FACES = 1500  # smaller meshes cost little and lose their shape
_VERSION = 2  # raise it when the algorithm changes, so that old cache files are not read


def cache_folder() -> Path:
    """Where decimated meshes are kept: ``$COLAWORLD_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("COLAWORLD_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "colaworld"


def decimate_visual_meshes(model: mujoco.MjModel, fraction: float) -> int:
    """Replace the dense visual-only meshes of ``model``, in place, by ones with ``fraction`` of their triangles.

    Call it before a rendering context uploads the meshes. Returns the number of triangles left in the whole model.
    """
    for mesh in sorted(_visual_only_meshes(model)):
        faces = int(model.mesh_facenum[mesh])
        if faces > MIN_FACES:
            _replace(model, mesh, max(fraction, MIN_FACES / faces))
    return int(model.mesh_facenum.sum())


def _visual_only_meshes(model: mujoco.MjModel) -> set[int]:
    """Ids of meshes that no geom able to touch anything uses."""
    meshes = {True: set(), False: set()}
    for geom in range(model.ngeom):
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
            touches = bool(model.geom_contype[geom] or model.geom_conaffinity[geom])
            meshes[touches].add(int(model.geom_dataid[geom]))
    return meshes[False] - meshes[True]


def _replace(model: mujoco.MjModel, mesh: int, fraction: float) -> None:
    vertex_start, face_start = int(model.mesh_vertadr[mesh]), int(model.mesh_faceadr[mesh])
    old_rows = slice(face_start, face_start + int(model.mesh_facenum[mesh]))
    vertices = model.mesh_vert[vertex_start : vertex_start + model.mesh_vertnum[mesh]].copy()
    faces = model.mesh_face[old_rows].copy()
    new_vertices, new_faces, normals = _decimated(vertices, faces, fraction)
    count, normal_start = len(new_vertices), int(model.mesh_normaladr[mesh])
    texture_start = int(model.mesh_texcoordadr[mesh])
    textured = texture_start >= 0
    fits = count <= min(model.mesh_vertnum[mesh], model.mesh_normalnum[mesh]) and 0 < len(new_faces) <= len(faces)
    if not fits or (textured and 3 * len(new_faces) > model.mesh_texcoordnum[mesh]):
        return  # the arrays of the model cannot grow; the original stays
    new_rows = slice(face_start, face_start + len(new_faces))
    if textured:
        nearest = _nearest_corners(vertices[faces], new_vertices[new_faces])
        coordinates = model.mesh_texcoord[texture_start + model.mesh_facetexcoord[old_rows].reshape(-1)[nearest]]
        model.mesh_texcoord[texture_start : texture_start + len(nearest)] = coordinates
        model.mesh_facetexcoord[new_rows] = np.arange(len(nearest)).reshape(-1, 3)
        model.mesh_texcoordnum[mesh] = len(nearest)
    model.mesh_vert[vertex_start : vertex_start + count] = new_vertices
    model.mesh_normal[normal_start : normal_start + count] = normals
    model.mesh_face[new_rows] = new_faces
    model.mesh_facenormal[new_rows] = new_faces
    model.mesh_facenum[mesh] = len(new_faces)
    model.mesh_vertnum[mesh] = count
    model.mesh_normalnum[mesh] = count


def _nearest_corners(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """For each corner of the new triangles (m, 3, 3), the old triangles' corner (n, 3, 3) nearest in place and facing.

    A texture has seams, where one place holds two coordinates; which side a triangle faces tells them apart. (3 m,).
    """

    def features(triangles: np.ndarray) -> np.ndarray:
        normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        inward = triangles + 0.05 * (triangles.mean(axis=1, keepdims=True) - triangles)
        return np.concatenate([inward.reshape(-1, 3), np.repeat(0.1 * size * normals, 3, axis=0)], axis=1)

    size = float(np.ptp(old.reshape(-1, 3), axis=0).max())
    return cKDTree(features(old)).query(features(new))[1]


def _decimated(vertices: np.ndarray, faces: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (n, 3) float32, faces (m, 3) int32 and vertex normals (n, 3) float32, from the cache or computed."""
    key = hashlib.sha256(f"{_VERSION} {fast_simplification.__version__} {fraction:.6f}".encode())
    key.update(np.ascontiguousarray(vertices).tobytes())
    key.update(np.ascontiguousarray(faces).tobytes())
    path = cache_folder() / "meshes" / f"{key.hexdigest()[:32]}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["vertices"], stored["faces"], stored["normals"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        result = _simplify(vertices, faces, fraction)
    _store(path, result)
    return result


def _simplify(vertices: np.ndarray, faces: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Files often repeat a vertex for every face; the simplifier needs them joined to see the surface.
    joined, where = np.unique(vertices, axis=0, return_inverse=True)
    surface = where.reshape(-1)[faces]
    proper = (surface[:, 0] != surface[:, 1]) & (surface[:, 1] != surface[:, 2]) & (surface[:, 2] != surface[:, 0])
    points, triangles = fast_simplification.simplify(
        joined.astype(np.float32), surface[proper].astype(np.int32), target_reduction=1.0 - fraction
    )
    corners = points[triangles]
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(points)
    for corner in range(3):
        np.add.at(normals, triangles[:, corner], areas)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return points.astype(np.float32), triangles.astype(np.int32), normals.astype(np.float32)


def _store(path: Path, result: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Write the cache file in one move; a machine that cannot be written to only computes again."""
    vertices, faces, normals = result
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            np.savez_compressed(part, vertices=vertices, faces=faces, normals=normals)
        os.replace(part.name, path)
    except OSError:
        return
