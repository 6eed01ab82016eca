"""Make small files that announce, or unpack to, far more data than they hold."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

from PIL import Image

from tests.fuzz.seeds import mesh_seeds
from tests.image_bytes import encode, tiled_tiff

HUGE = 10**9


def bombs() -> dict[str, tuple[str, bytes]]:
    """Return bombs by name: the target that must reject each bomb, and its bytes."""
    return _image_bombs() | _mesh_bombs() | _manifest_bombs()


def _image_bombs() -> dict[str, tuple[str, bytes]]:
    side = 65_535
    header = struct.pack(">IIBBBBB", 10**5, 10**5, 8, 2, 0, 0, 0)
    pixel = encode(Image.new("RGB", (1, 1)), "PNG")
    text = _zeros(200)
    strip = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 5), (262, 3, 1), (273, 4, 8), (279, 4, 2**31)]
    return {
        "PNG of 10^10 pixels": ("image", pixel[:8] + _chunk(b"IHDR", header) + pixel[33:]),
        "PNG with 200 MB of text": ("image", pixel[:33] + _chunk(b"zTXt", b"a\0\0" + text) + pixel[33:]),
        "PNG with 200 MB of colour profile": ("image", pixel[:33] + _chunk(b"iCCP", b"a\0\0" + text) + pixel[33:]),
        "GIF screen": ("image", b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\0;"),
        "JPEG": ("image", _replace(encode(Image.new("RGB", (16, 16)), "JPEG"), b"\0\x10\0\x10", b"\xff\xff\xff\xff")),
        "WebP": ("image", _webp(2**14)),
        "TIFF strip": ("image", _tiff(strip)),
        "TIFF count": ("image", _tiff([(256, 4, 9), (257, 4, 9), (258, 3, 8), (270, 2, 8)], count=HUGE)),
        "TIFF tile": ("image", _tiff([*strip[:5], (322, 4, 2**30), (323, 4, 2**30), (324, 4, 8), (325, 4, 9)])),
        "TIFF tile of one pixel": ("image", tiled_tiff(14_000, text)),
        "BMP": ("image", b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)),
        "PPM": ("image", f"P6 {HUGE} {HUGE} 255\n".encode()),
    }


def _mesh_bombs() -> dict[str, tuple[str, bytes]]:
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    faces = f"element face {HUGE}\nproperty list uchar int vertex_indices\nend_header\n"
    ply = f"ply\nformat {{}} 1.0\nelement vertex {{}}\n{axes}{faces}"
    wide = "".join(f"property list uint double p{index}\n" for index in range(9))
    return {
        "PLY, binary vertices": ("ply", ply.format("binary_little_endian", HUGE).encode() + b"\0" * 60),
        "PLY, binary faces": ("ply", ply.format("binary_little_endian", 3).encode() + b"\0" * 36 + b"\3" + b"\0" * 12),
        "PLY, binary list": (
            "ply",
            f"ply\nformat binary_little_endian 1.0\nelement face {HUGE}\n{wide}end_header\n".encode() + b"\xff" * 60,
        ),
        "PLY without properties": (
            "ply",
            f"ply\nformat binary_little_endian 1.0\nelement vertex {HUGE}\nend_header\nx".encode(),
        ),
        "PLY, text": ("ply", ply.format("ascii", HUGE).encode() + b"0 0 0\n"),
        "PLY, binary strip": (
            "ply",
            ply.replace("element face", "element tristrips").format("binary_little_endian", 1).encode() + b"\xff" * 60,
        ),
        "PLY, text list": ("ply", ply.replace(str(HUGE), "1").format("ascii", 1).encode() + b"0 0 0\n%d 0 0 0" % HUGE),
        "OBJ polygon": ("obj", b"v 0 0 0\nv 4 2 0\nv 0 4 0\nv 1 2 0\nf" + b" 1 2 3 4" * 30_000),
        "OFF": ("off", f"OFF\n{HUGE} {HUGE} 0\n0 0 0\n".encode()),
        "OFF polygon": ("off", f"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n{HUGE} 0 1 2\n".encode()),
        "OBJ index": ("obj", f"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 {HUGE}\n".encode()),
        "STL": ("stl", b"\0" * 80 + struct.pack("<I", HUGE) + b"\0" * 50),
        "GLB buffer": ("glb", _glb("bufferViews", "byteLength")),
        "GLB stride": ("glb", _glb("bufferViews", "byteStride")),
        "GLB offset": ("glb", _glb("accessors", "byteOffset")),
        "GLB count": ("glb", _glb("accessors", "count")),
        "GLB chunk": ("glb", struct.pack("<5I", 0x46546C67, 2, 40, 2**32 - 1, 0x4E4F534A) + b"{}" * 10),
        "glTF buffer": ("gltf", mesh_seeds(".gltf")["box"].replace(b'"byteLength": ', b'"byteLength": 9999999')),
        "glTF file": ("gltf", b'{"asset":{"version":"2.0"},"buffers":[{"byteLength":1,"uri":"/dev/zero"}]}'),
        "GLB nodes": ("glb", _glb_of(nodes=[{"mesh": 0}] * 10**5)),
        "GLB primitives": ("glb", _glb_of(meshes=[{"primitives": [{"attributes": {"POSITION": 0}}] * 10**5}])),
        "GLB nesting": ("glb", _pack(b"[" * 10**5)),
    }


def _manifest_bombs() -> dict[str, tuple[str, bytes]]:
    return {
        "manifest of arrays": ("manifest", b"[" * 10**6),
        "manifest of objects": ("manifest", b'{"schema_version":' * 10**5),
        "manifest of digits": ("manifest", b'{"schema_version": ' + b"9" * 10**6 + b"}"),
        "manifest of a long name": ("sealed", json.dumps({"schema_version": 1, "x" * 10**6: 1}).encode()),
    }


def _zeros(megabytes: int) -> bytes:
    """Return that many megabytes of zeros, compressed without being in memory at once."""
    packer = zlib.compressobj()
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(megabytes)), packer.flush()])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _webp(side: int) -> bytes:
    data = encode(Image.new("RGB", (4, 4)), "WEBP")
    head = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (side - 1).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", len(head) + len(data) - 8) + b"WEBP" + head + data[12:]


def _tiff(tags: list[tuple[int, int, int]], count: int = 1) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, kind, count if kind == 2 else 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(40)


def _glb(table: str, member: str) -> bytes:
    """Return a box with one huge length."""
    document, rest = _box()
    document[table][0][member] = HUGE
    return _pack(json.dumps(document).encode(), rest)


def _glb_of(**members: Any) -> bytes:
    """Return a box with other members of its document."""
    document, rest = _box()
    return _pack(json.dumps(document | members).encode(), rest)


def _box() -> tuple[dict[str, Any], bytes]:
    data = mesh_seeds(".glb")["box"]
    end = 20 + int.from_bytes(data[12:16], "little")
    return json.loads(data[20:end]), data[end:]


def _pack(text: bytes, rest: bytes = b"") -> bytes:
    text += b" " * (-len(text) % 4)
    return struct.pack("<5I", 0x46546C67, 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest


def _replace(data: bytes, old: bytes, new: bytes) -> bytes:
    if old not in data:
        raise ValueError("the bytes to be replaced are not there")
    return data.replace(old, new, 1)
