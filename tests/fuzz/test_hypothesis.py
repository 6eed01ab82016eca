"""Test that damaged inputs give a valid result or an error of our own."""

from __future__ import annotations

from functools import cache
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tests.fuzz.mutations import HARD, mutate_bytes, mutate_document, mutate_glb
from tests.fuzz.run_atheris import NAMES
from tests.fuzz.seeds import documents, seeds_of
from tests.fuzz.targets import Targets

# Every run has the same examples and no time limit, so that CI is repeatable.
FEW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MANY = settings(FEW, max_examples=100)
RANDOM = st.randoms(use_true_random=False)
EXTREME_FLOATS = st.floats() | st.sampled_from([5e-324, 1e-160, 1e153, 1.7e308, -1.7e308])
DTYPES = ("u1", "f4", "f8", "f2", ">f4", "i8", "u8", "?", "c8", "S3", "U2", "M8[s]", "O", "V4", [("x", "f4")])


@cache
def _seeds(target: str) -> list[bytes]:
    return list(seeds_of(target).values())


@pytest.mark.parametrize("name", NAMES)
def test_valid_inputs_pass(name: str, targets: Targets) -> None:
    for seed in _seeds(name):
        targets.by_name[name](seed)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(data=st.data(), random=RANDOM)
def test_damaged_bytes(name: str, targets: Targets, data: st.DataObject, random: Random) -> None:
    damaged = data.draw(st.sampled_from(_seeds(name)))
    for _ in range(random.randint(1, 4)):
        damaged = mutate_bytes(damaged, random.choice(_seeds(name)), random)
    targets.by_name[name](damaged)


@MANY
@given(random=RANDOM)
def test_damaged_documents_with_a_correct_hash(targets: Targets, random: Random) -> None:
    document: Any = random.choice(list(documents().values()))
    for _ in range(random.randint(1, 3)):
        document = mutate_document(document, random)
    targets.document(document)


@MANY
@given(random=RANDOM)
def test_damaged_documents_inside_glb(targets: Targets, random: Random) -> None:
    data = random.choice(_seeds("glb"))
    for _ in range(random.randint(1, 3)):
        data = mutate_glb(data, random)
    targets.mesh_file(".glb", data)


JSON = st.recursive(
    st.sampled_from(HARD) | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@MANY
@given(document=JSON)
def test_any_json_is_read_or_refused(targets: Targets, document: Any) -> None:
    targets.document(document)
    targets.document(documents()["image"] | {"towers": document})


@MANY
@given(text=st.text(st.characters(), max_size=60) | st.text("a b\0\ud800\udfff\u200d\ufeff&;漢", max_size=200))
def test_any_string_is_prepared_or_refused(targets: Targets, text: str) -> None:
    targets.text(text)


@pytest.mark.parametrize("text", ["a" * 10**4, "\0" * 10**5, "漢" * 10**4, "&amp;" * 10**4, " " * 10**5, "🏳️‍🌈" * 10**3])
def test_long_strings_are_prepared(targets: Targets, text: str) -> None:
    targets.text(text)


OBJECTS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    EXTREME_FLOATS,
    st.binary(max_size=9).map(bytearray),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.just(object()),
    st.just(type),
    st.text(max_size=300),
    st.text(max_size=9).map(lambda stem: f"{stem}.ply"),
)


@MANY
@given(item=OBJECTS)
def test_any_object_is_prepared_or_refused(targets: Targets, item: Any) -> None:
    targets.image(item)
    targets.mesh(item)
    if not isinstance(item, str):
        targets.text(item)


SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6) | st.tuples(st.integers(0, 9), st.just(3))


@MANY
@given(
    data=st.data(),
    dtype=st.sampled_from(DTYPES),
    shape=SHAPES | st.tuples(SHAPES, st.just((3,))).map(lambda two: two[0] + two[1]),
)
def test_any_array_is_prepared_or_refused(
    targets: Targets, data: st.DataObject, dtype: Any, shape: tuple[int, ...]
) -> None:
    kind = np.dtype(dtype)
    array = np.zeros(shape, kind) if kind.kind in "OV" else data.draw(hnp.arrays(kind, shape))
    targets.image(array)
    targets.mesh(array)
    targets.mesh(array[::-2] if array.ndim else array)
    targets.text(array)


@MANY
@given(cloud=hnp.arrays("f8", st.tuples(st.integers(4, 9), st.just(3)), elements=EXTREME_FLOATS))
def test_point_clouds_of_extreme_numbers(targets: Targets, cloud: np.ndarray[Any, Any]) -> None:
    targets.mesh(cloud)


INDICES = st.integers(-2, 9) | st.sampled_from([2**31, -(2**31), 2**62])


@MANY
@given(
    vertices=hnp.arrays("f8", st.tuples(st.integers(0, 9), st.just(3)), elements=EXTREME_FLOATS),
    faces=hnp.arrays("i8", st.tuples(st.integers(0, 6), st.sampled_from([3, 3, 3, 4])), elements=INDICES),
)
def test_nearly_valid_meshes(targets: Targets, vertices: np.ndarray[Any, Any], faces: np.ndarray[Any, Any]) -> None:
    targets.mesh(SimpleNamespace(vertices=vertices, faces=faces))
    targets.mesh(SimpleNamespace(vertices=vertices.tolist(), faces=faces.tolist()))
    rows = "".join(f"v {x} {y} {z}\n" for x, y, z in vertices)
    polygons = [" ".join(map(str, face)) for face in faces]
    targets.mesh_file(".obj", (rows + "".join(f"f {face}\n" for face in polygons)).encode())
    body = rows.replace("v ", "") + "".join(f"{len(face.split())} {face}\n" for face in polygons)
    targets.mesh_file(".off", f"OFF\n{len(vertices)} {len(faces)} 0\n{body}".encode())


MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "La", "RGBa", "I;16")


@FEW
@given(mode=st.sampled_from(MODES), size=st.tuples(st.integers(0, 50), st.integers(0, 50)), random=RANDOM)
def test_any_pillow_image_is_prepared_or_refused(
    targets: Targets, mode: str, size: tuple[int, int], random: Random
) -> None:
    image = Image.new(mode, size, random.randrange(256))
    image.info |= {"transparency": random.choice([0, b"\0\1", (1, 2, 3), "x"]), "exif": random.randbytes(20)}
    targets.image(image)
