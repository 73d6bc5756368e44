"""A lifted clip for the tools of biomechanics and animation: .trc and .c3d for markers, .glb for an animated skeleton.

All have y up and the floor at y = 0, as `Lifted.upright` says: .trc and .glb in metres, .c3d in millimetres.
"""

import json
import warnings

import numpy as np
from jaxtyping import Float
from PIL import ImageColor

from mixste.io.files import replacing
from mixste.io.install import install
from mixste.skeleton import human36m
from mixste.wild.outputs import SIDES, Lifted, hierarchy, parts, rest_offsets

# The joints as markers, by the names that Pose2Sim, Sports2D and their OpenSim models have for these places.
MARKERS = tuple(
    {"RFoot": "RAnkle", "LFoot": "LAnkle", "Thorax": "Neck", "Neck": "Nose"}.get(joint, joint)
    for joint in human36m.joints
)


def write_trc(lifted: Lifted, path) -> None:
    """Marker trajectories as text, for OpenSim, Pose2Sim and Sports2D: metres, y up, MARKERS."""
    frames, rate = str(len(lifted.poses)), f"{lifted.fps:.10g}"
    about = {
        **{"DataRate": rate, "CameraRate": rate, "NumFrames": frames, "NumMarkers": str(len(MARKERS)), "Units": "m"},
        **{"OrigDataRate": rate, "OrigDataStartFrame": "1", "OrigNumFrames": frames},
    }
    head = [
        ("PathFileType", "4", "(X/Y/Z)", " ".join(lifted.name.split()) + ".trc"),
        about.keys(),
        about.values(),
        ("Frame#", "Time", "\t\t\t".join(MARKERS)),
        ("", "", *(f"{axis}{number}" for number in range(1, len(MARKERS) + 1) for axis in "XYZ")),
        (),
    ]
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.writelines("\t".join(line) + "\n" for line in head)
        for part in parts(lifted):
            for frame, row in enumerate(lifted.upright(part).reshape(-1, 3 * len(MARKERS)).tolist(), part.start):
                file.write(f"{frame + 1}\t{frame / lifted.fps:.6f}\t" + "\t".join(f"{value:.6f}" for value in row))
                file.write("\n")


def write_c3d(lifted: Lifted, path) -> None:
    """Marker trajectories in biomechanics' binary format: millimetres, y up, MARKERS; the first 65,534 frames.

    Needs the extra `c3d`, or raises ImportError.
    """
    lifted = lifted.cut("c3d")
    writer = c3d().Writer(point_rate=lifted.fps, point_units="mm  ")
    writer.set_point_labels(MARKERS)
    writer.set_screen_axis("+X", "+Y")
    points = np.zeros((len(lifted.poses), len(MARKERS), 5), dtype=np.float32)  # x, y, z, residual, cameras
    points[..., :3] = 1000 * lifted.upright()
    writer.add_frames([(frame, np.empty((0, 0), dtype=np.float32)) for frame in points])
    with replacing(path) as temporary, open(temporary, "wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no analogue channels
        writer.write(file)


def c3d():
    """The package that writes C3D; ImportError, in one sentence, without the extra `c3d`."""
    try:
        import c3d
    except ImportError:
        raise ImportError(f"C3D is written by the package c3d, which is not installed: {install('c3d')}") from None
    return c3d


# --- glTF ------------------------------------------------------------------------------------------------------

FLOAT, BYTE = 5126, 5121  # glTF's numbers for the types of an accessor
THICK = 0.12  # of a drawn bone: half its width over its length


def write_glb(lifted: Lifted, path) -> None:
    """An animated skeleton with a simple body, for browsers, game engines and Blender; the first 50,000 frames.

    glTF 2.0: metres, y up, a person at rest faces +z. The joints and their rotations are those of `write_bvh`; the hip
    moves as in `Lifted.upright`. The body is one spindle a bone, red on the left and blue on the right.
    """
    lifted = lifted.cut("glb")
    upright, offsets = lifted.upright(), rest_offsets(lifted)
    joints = hierarchy(offsets, upright)
    names = list(joints)[1:]  # without the world, ""
    number = {name: place for place, name in enumerate(names)}
    rest = {"": np.zeros(3)}
    for name in names:
        rest[name] = rest[joints[name][0]] + joints[name][1]

    content = {
        "asset": {"version": "2.0", "generator": "mixste", "extras": {"notes": list(lifted.notes)}},
        "scene": 0,
        "scenes": [{"name": lifted.name, "nodes": [0, len(names)]}],
        "nodes": [{"name": name, "translation": joints[name][1].tolist()} for name in names],
        "meshes": [],
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 0.8}}],
        "skins": [],
        "animations": [{"name": lifted.name, "samplers": [], "channels": []}],
        "accessors": [],
        "bufferViews": [],
        "buffers": [],
    }
    for name in names[1:]:
        content["nodes"][number[joints[name][0]]].setdefault("children", []).append(number[name])
    binary = bytearray()

    def store(values, kind: str, component: int = FLOAT, **more) -> int:
        """Append values to the binary part, and return the number of the new accessor to them."""
        values = np.ascontiguousarray(values, {FLOAT: "<f4", BYTE: "u1"}[component])
        content["bufferViews"].append({"buffer": 0, "byteOffset": len(binary), "byteLength": values.nbytes})
        view = len(content["bufferViews"]) - 1
        binary.extend(values.tobytes())
        binary.extend(bytes(-len(binary) % 4))
        content["accessors"].append(
            {"bufferView": view, "componentType": component, "count": len(values), "type": kind, **more}
        )
        return len(content["accessors"]) - 1

    def bounds(values) -> dict:
        values = np.atleast_2d(np.asarray(values, dtype=np.float32).T).T
        return {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}

    # The body at rest: a spindle along each bone, which moves with the joint at the bone's start.
    spindles = [(name, joints[name][0]) for name in human36m.joints if name != names[0]]
    corners = np.concatenate([_spindle(rest[start], rest[end]) for end, start in spindles])
    each = len(corners) // len(spindles)
    carriers = np.zeros((len(corners), 4))
    carriers[:, 0] = np.repeat([number[start] for _, start in spindles], each)
    colours = np.array([ImageColor.getrgb(SIDES[max(0, " LR".find(end[0]))]) for end, _ in spindles])
    attributes = {
        "POSITION": store(corners, "VEC3", **bounds(corners)),
        "COLOR_0": store(np.repeat((colours / 255) ** 2.2, each, axis=0), "VEC3"),  # glTF's colours are linear
        "JOINTS_0": store(carriers, "VEC4", BYTE),
        "WEIGHTS_0": store(np.tile([1.0, 0, 0, 0], (len(corners), 1)), "VEC4"),
    }
    content["meshes"].append({"primitives": [{"attributes": attributes, "material": 0}]})
    inverse = np.tile(np.eye(4), (len(names), 1, 1))
    inverse[:, 3, :3] = [-rest[name] for name in names]  # column by column
    inverse = store(inverse.reshape(-1, 16), "MAT4")
    content["skins"].append({"joints": list(range(len(names))), "skeleton": 0, "inverseBindMatrices": inverse})
    content["nodes"].append({"name": "body", "mesh": 0, "skin": 0})

    [animation] = content["animations"]
    seconds = np.arange(len(upright)) / lifted.fps
    when = store(seconds, "SCALAR", **bounds(seconds))

    def animate(name: str, what: str, values, kind: str) -> None:
        animation["channels"].append(
            {"sampler": len(animation["samplers"]), "target": {"node": number[name], "path": what}}
        )
        animation["samplers"].append({"input": when, "output": store(values, kind)})

    animate(names[0], "translation", upright[:, human36m.root], "VEC3")
    for name in names:
        parent, _, turn = joints[name]
        animate(name, "rotation", _continuous((joints[parent][2].inv() * turn).as_quat()), "VEC4")

    content["buffers"].append({"byteLength": len(binary)})
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 4)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(b"glTF" + np.array([2, 28 + len(text) + len(binary)], "<u4").tobytes())
        for kind, chunk in ((b"JSON", text), (b"BIN\0", binary)):
            file.write(np.array([len(chunk)], "<u4").tobytes() + kind + chunk)


def _spindle(start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"]) -> Float[np.ndarray, "24 3"]:
    """The eight triangles of an octahedron along a bone, outside to the front."""
    along = end - start
    length = max(1e-9, float(np.linalg.norm(along)))
    across = np.cross(along, np.eye(3)[np.argmin(np.abs(along))])
    across *= THICK * length / max(1e-9, float(np.linalg.norm(across)))
    up = np.cross(along, across) / length
    ring = start + 0.2 * along + np.array([across, up, -across, -up])
    return np.concatenate(
        [
            [tip, *edge]
            for k in range(4)
            for tip, edge in ((start, ring[[(k + 1) % 4, k]]), (end, ring[[k, (k + 1) % 4]]))
        ]
    )


def _continuous(quaternions: Float[np.ndarray, "frames 4"]) -> Float[np.ndarray, "frames 4"]:
    """Of the two quaternions of each rotation, the one nearer to the frame before: players interpolate between them."""
    opposite = np.einsum("fq,fq->f", quaternions[1:], quaternions[:-1]) < 0
    return quaternions * np.where(np.cumsum(np.r_[False, opposite]) % 2, -1, 1)[:, None]
