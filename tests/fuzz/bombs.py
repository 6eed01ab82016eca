"""Make small files that announce, or unpack to, far more data than they hold."""

from __future__ import annotations

import json
import struct
import zlib

from PIL import Image

from runtime.artifact.manifest import SCHEMA_VERSION
from tests.image_bytes import encode, tiff, tiled_tiff
from tests.runtime.preprocess.cube import glb, gltf, pack_glb, split_glb

HUGE = 10**9


def bombs() -> dict[str, tuple[str, bytes]]:
    """Return bombs by name: the target that must survive each bomb, and its bytes."""
    return _image_bombs() | _mesh_bombs() | _manifest_bombs()


def _image_bombs() -> dict[str, tuple[str, bytes]]:
    side = 65_535
    header = struct.pack(">IIBBBBB", 10**5, 10**5, 8, 2, 0, 0, 0)
    pixel = encode(Image.new("RGB", (1, 1)), "PNG")
    text = _zeros(200)
    size = {256: side, 257: side, 258: 8, 259: 5, 262: 1}
    entry, long_text = (struct.pack("<HHI", 270, *kind) for kind in ((4, 1), (2, HUGE)))
    return {
        "PNG of 10^10 pixels": ("image", pixel[:8] + _chunk(b"IHDR", header) + pixel[33:]),
        "PNG with 200 MB of text": ("image", pixel[:33] + _chunk(b"zTXt", b"a\0\0" + text) + pixel[33:]),
        "PNG with 200 MB of colour profile": ("image", pixel[:33] + _chunk(b"iCCP", b"a\0\0" + text) + pixel[33:]),
        "GIF screen": ("image", b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\0;"),
        "JPEG": ("image", _replace(encode(Image.new("RGB", (16, 16)), "JPEG"), b"\0\x10\0\x10", b"\xff\xff\xff\xff")),
        "WebP": ("image", _webp(2**14)),
        "TIFF strip": ("image", tiff(size | {273: 8, 279: 2**31}, bytes(40))),
        "TIFF count": ("image", _replace(tiff({256: 9, 257: 9, 258: 8, 270: 8}, bytes(40)), entry, long_text)),
        "TIFF tile": ("image", tiff(size | {322: 2**30, 323: 2**30, 324: 8, 325: 9}, bytes(40))),
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
        "glTF buffer": ("gltf", gltf().replace('"byteLength": ', '"byteLength": 9999999').encode()),
        "glTF file": ("gltf", b'{"asset":{"version":"2.0"},"buffers":[{"byteLength":1,"uri":"/dev/zero"}]}'),
        "GLB nodes": ("glb", glb(nodes=[{"mesh": 0}] * 10**5)),
        "GLB primitives": ("glb", glb(meshes=[{"primitives": [{"attributes": {"POSITION": 0}}] * 10**5}])),
        "GLB nesting": ("glb", pack_glb("[" * 10**5, b"")),
    }


def _manifest_bombs() -> dict[str, tuple[str, bytes]]:
    return {
        "manifest of arrays": ("manifest", b"[" * 10**6),
        "manifest of objects": ("manifest", b'{"schema_version":' * 10**5),
        "manifest of digits": ("manifest", b'{"schema_version": ' + b"9" * 10**6 + b"}"),
        "manifest of a long name": ("sealed", json.dumps({"schema_version": SCHEMA_VERSION, "x" * 10**6: 1}).encode()),
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


def _glb(table: str, member: str) -> bytes:
    """Return a cube with one huge length."""
    document, binary = split_glb(glb())
    document[table][0][member] = HUGE
    return pack_glb(json.dumps(document), binary)


def _replace(data: bytes, old: bytes, new: bytes) -> bytes:
    if old not in data:
        raise ValueError("the bytes to be replaced are not there")
    return data.replace(old, new, 1)
