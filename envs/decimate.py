"""Fewer triangles in the meshes that are only looked at, for small pictures on a machine without a GPU.

LIBERO's scenes hold some 250,000 triangles, most of them in the robot's covers, its pedestal and a bowl; at 64x64 nearly
all are smaller than a pixel. Only meshes whose geoms take part in no collision are touched, and only their pictures:
masses and inertias were computed when the model was compiled. Results are cached on disk, keyed by the mesh itself.
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

MIN_FACES = 600  # smaller meshes cost little and lose their shape
_VERSION = 1  # raise it when the algorithm changes, so that old cache files are not read


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
    vertices = model.mesh_vert[vertex_start : vertex_start + model.mesh_vertnum[mesh]].copy()
    faces = model.mesh_face[face_start : face_start + model.mesh_facenum[mesh]].copy()
    new_vertices, new_faces, normals = _decimated(vertices, faces, fraction)
    count, normal_start = len(new_vertices), int(model.mesh_normaladr[mesh])
    if count > min(model.mesh_vertnum[mesh], model.mesh_normalnum[mesh]) or not len(new_faces):
        return  # nothing was gained; the original stays
    new_rows = slice(face_start, face_start + len(new_faces))
    texture_start = int(model.mesh_texcoordadr[mesh])
    if texture_start >= 0:
        if count > model.mesh_texcoordnum[mesh]:
            return
        corners = model.mesh_facetexcoord[face_start : face_start + model.mesh_facenum[mesh]]
        coordinates = model.mesh_texcoord[texture_start + _corner_of_vertex(faces, corners, len(vertices))]
        nearest = cKDTree(vertices).query(new_vertices)[1]
        model.mesh_texcoord[texture_start : texture_start + count] = coordinates[nearest]
        model.mesh_facetexcoord[new_rows] = new_faces
    model.mesh_vert[vertex_start : vertex_start + count] = new_vertices
    model.mesh_normal[normal_start : normal_start + count] = normals
    model.mesh_face[new_rows] = new_faces
    model.mesh_facenormal[new_rows] = new_faces
    model.mesh_facenum[mesh] = len(new_faces)
    model.mesh_vertnum[mesh] = count
    model.mesh_normalnum[mesh] = count


def _corner_of_vertex(faces: np.ndarray, corners: np.ndarray, count: int) -> np.ndarray:
    """For each of ``count`` vertices, the texture coordinate of one face corner that touches it: (count,)."""
    chosen = np.zeros(count, dtype=np.int64)
    chosen[faces.reshape(-1)] = corners.reshape(-1)
    return chosen


def _decimated(vertices: np.ndarray, faces: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (n, 3) float32, faces (m, 3) int32 and vertex normals (n, 3) float32, from the cache or computed."""
    key = hashlib.sha256(f"{_VERSION} {fast_simplification.__version__} {fraction:.6f}".encode())
    key.update(np.ascontiguousarray(vertices).tobytes())
    key.update(np.ascontiguousarray(faces).tobytes())
    path = cache_folder() / "meshes" / f"{key.hexdigest()[:32]}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["vertices"], stored["faces"], stored["normals"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
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
