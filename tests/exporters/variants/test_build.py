"""Test that variants are added completely or not at all, and that the rest of the artifact stays unchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data
from PIL import Image

import runtime
from exporters.calibration.activations import Batches, count_rows
from exporters.catalogue.options import ExportOptions
from exporters.cli.main import main
from exporters.errors import DestinationError, FloorError, VariantError
from exporters.export import export
from exporters.graph import onnx_file
from exporters.passes import compact
from exporters.variants import build, builder, recipes
from exporters.variants.build import add_variants
from exporters.variants.gate import VariantGate
from exporters.variants.options import VariantOptions
from exporters.variants.report import describe_outcomes
from exporters.variants.sensitivity import NodeCost
from runtime.artifact.manifest import TowerName
from runtime.artifact.reader import check_files, read_manifest, record_file
from runtime.cli.main import main as runtime_main
from runtime.errors import UsageError
from runtime.loading.golden_file import read_golden
from runtime.machine import cpu
from tests.exporters.file_contents import contents
from tests.exporters.toys import save_toy
from tests.exporters.variants.planted_faults import spoil
from tests.runtime.toy_artifact import write_artifact

pytestmark = pytest.mark.process  # each new variant is loaded in a process of its own
TEXTS = ["a cup of coffee", "the rocket left the launch pad at noon", ""]


def test_items_that_are_asked_for_must_be_there(text_artifact: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"a text about {number}" for number in range(60)))
    with pytest.raises(UsageError, match=r"holds 60 items .* where 1000 are needed.*or --items 30"):
        add_variants(text_artifact, VariantOptions(calibration=texts, items=500))


def test_items_that_cannot_be_used_are_named_before_any_variant_is_built(tmp_path: Path) -> None:
    both = write_artifact(tmp_path / "both", image=True)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"a text about {number}" for number in range(60)))
    with pytest.raises(UsageError, match=r"No such file.*; .*\. For text and image, the folder has to hold both"):
        add_variants(both, VariantOptions(calibration=texts, items=16))
    lines = [json.dumps({"text": f"\ud800 {number}"}) for number in range(60)]
    texts.with_suffix(".jsonl").write_text("\n".join(lines))
    with pytest.raises(
        UsageError, match=r"texts\.jsonl: .* cannot be used for calibration: .*lone surrogate.*; remove it"
    ):
        add_variants(
            write_artifact(tmp_path / "text"), VariantOptions(calibration=texts.with_suffix(".jsonl"), items=16)
        )


def test_an_image_that_cannot_be_used_is_named_before_variants_of_texts_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "items"
    folder.mkdir()
    (folder / "texts.txt").write_text("\n".join(f"a text about {number}" for number in range(32)))
    for value in range(31):
        Image.new("L", (4, 4), value).save(folder / f"{value}.png")
    (folder / "broken.png").write_bytes(b"no image")
    monkeypatch.setattr(build, "VariantBuilder", None)
    both = write_artifact(tmp_path / "both", image=True)
    with pytest.raises(UsageError, match=r"broken\.png cannot be used for calibration: .*; remove it"):
        add_variants(both, VariantOptions(calibration=folder, items=16))


def test_an_optimized_graph_is_added_and_loaded(text_artifact: Path) -> None:
    before = runtime.load(text_artifact).embed(TEXTS)
    (outcome,) = add_variants(text_artifact, VariantOptions(items=16))
    assert outcome.after is not None
    assert outcome.after.nodes < outcome.before.nodes
    assert outcome.after.contrib_operators["com.microsoft:Attention"] == 1
    manifest = read_manifest(text_artifact)
    check_files(text_artifact, manifest)
    variant = manifest.towers["text"].variants["optimized"]
    assert variant.operators == tuple(sorted(outcome.after.contrib_operators))
    assert (variant.level, variant.graph, "openvino" in variant.providers) == ("extended", "text.optimized.onnx", False)
    assert "the variant optimized of the text tower" in (text_artifact / "README.md").read_text()
    model = runtime.load(text_artifact)
    assert (model.variant, model.variant_reason) == ("optimized", "auto: its operators are fused")
    np.testing.assert_allclose(model.embed(TEXTS), before, atol=1e-6)
    assert runtime.load(text_artifact, variant="fp32").variant == "fp32"
    assert runtime.verify(text_artifact).variant == "optimized"


def test_the_same_command_twice_gives_the_same_bytes(text_artifact: Path) -> None:
    add_variants(text_artifact, VariantOptions(items=16))
    first = contents(text_artifact)
    add_variants(text_artifact, VariantOptions(items=16))
    assert contents(text_artifact) == first


def test_a_failed_variant_leaves_the_artifact_unchanged(
    text_artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_variants(text_artifact, VariantOptions(items=16))
    good = contents(text_artifact)
    spoil(monkeypatch)
    with pytest.raises(VariantError, match=r"text optimized: min cosine .* is below .*neighbours"):
        add_variants(text_artifact, VariantOptions(items=16))
    assert contents(text_artifact) == good
    assert [path.name for path in text_artifact.parent.iterdir()] == ["toy"]
    assert main(["optimize", str(text_artifact), "--items", "16"]) == 1
    assert "error: text optimized: min cosine" in capsys.readouterr().err


def test_the_users_floor_replaces_the_default(text_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch)
    options = VariantOptions(items=16, min_cosine=0.01, min_overlap=0.0)
    (outcome,) = add_variants(text_artifact, options)
    assert outcome.variant is not None
    assert outcome.variant.parity.min_cosine < 0.9999
    assert runtime.verify(text_artifact).towers["text"].tolerance.min_cosine < 0.1


def test_a_variant_without_fusions_is_not_written(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(artifact)
    assert main(["optimize", str(artifact), "--items", "16"]) == 0
    assert "image optimized: nothing was fused at level extended, so it is not written" in capsys.readouterr().out
    assert contents(artifact) == before


def test_a_variant_without_weights_in_its_precision_is_not_written(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(
        VariantError, match=r"none of its weights is in int8: 4 nodes stay in float32; the most .*, so it is"
    ):
        add_variants(artifact, VariantOptions(precisions=["int8"], items=16, min_cosine=1 - 1e-9))
    table = write_artifact(tmp_path / "table")  # it has no matrix product
    for outcome in add_variants(table, VariantOptions(precisions=["fp16", "int8"], items=16)):
        assert outcome.reason == f"none of its weights is in {outcome.name}, so it is not written"
        assert not outcome.failed


def test_an_older_variant_that_stays_is_named(text_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_variants(text_artifact, VariantOptions(items=16))
    before = contents(text_artifact)
    monkeypatch.setattr(recipes, "fuse", lambda graph, output, *_: shutil.copy(graph, output) and None)
    (outcome,) = add_variants(text_artifact, VariantOptions(items=16, level="basic"))
    assert outcome.reason.endswith("at level basic, so it is not written; the older optimized of level extended stays")
    assert contents(text_artifact) == before


def test_level_all_is_for_cpus_with_avx512(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda *_: frozenset({"avx2"}))
    with pytest.raises(UsageError, match="level all lays weights out for CPUs with AVX-512, and this CPU has none"):
        add_variants(artifact, VariantOptions(items=16, level="all"))
    monkeypatch.undo()
    if "avx512f" not in cpu.cpu_flags():
        pytest.skip("this CPU has no AVX-512")
    (outcome,) = add_variants(artifact, VariantOptions(items=16, level="all"))
    assert outcome.variant is not None
    assert (outcome.variant.providers, outcome.variant.cpu_features) == (("cpu",), ("avx512f",))
    assert outcome.after is not None
    assert outcome.after.contrib_operators["com.microsoft.nchwc:Conv"] == 2


def test_the_command_prints_a_table(text_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", str(text_artifact), "--items", "16"]) == 0
    printed = capsys.readouterr().out
    assert "1 Attention, 1 BiasGelu" in printed
    assert "SkipLayerNormalization" not in printed, "which takes longer on the CPU than what it is made of"
    assert printed.splitlines()[2].split()[:2] == ["text", "fp32"]


def test_an_export_can_add_variants_at_once(
    text_artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("exporters.cli.export.export", lambda *_, **__: text_artifact)
    assert main(["sbert-base-en", "--optimize"]) == 0
    assert "Attention" in capsys.readouterr().out
    assert list(read_manifest(text_artifact).towers["text"].variants) == ["optimized"]


def test_invalid_options_are_refused_before_any_work(text_artifact: Path) -> None:
    with pytest.raises(UsageError, match=r"the floor min_cosine is 1\.5"):
        add_variants(text_artifact, VariantOptions(min_cosine=1.5))
    with pytest.raises(UsageError, match="too few to measure accuracy"):
        add_variants(text_artifact, VariantOptions(items=3))
    with pytest.raises(runtime.ArtifactError, match="there is no folder"):
        add_variants(text_artifact / "no", VariantOptions())


def test_every_precision_of_a_text_and_an_image_tower_passes_its_floors(
    text_artifact: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def note(make: Callable[..., Any], graph: Path, *batches: Batches, **named: Any) -> Any:
        rows.append(sum(map(count_rows, batches)))
        return make(graph, *batches, **named)

    for name in ("to_fp16", "StaticQuantizer"):
        monkeypatch.setattr(recipes, name, partial(note, getattr(recipes, name)))
    folders: tuple[tuple[Path, TowerName], ...] = ((text_artifact, "text"), (artifact, "image"))
    for folder, kind in folders:
        outcomes = add_variants(folder, VariantOptions(precisions=("fp16", "int8"), items=16))
        assert [outcome.reason for outcome in outcomes] == ["", ""]
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        half, eighth = manifest.towers[kind].variants.values()
        assert min(rows) > 16, "the extra batches count, too"
        assert (half.precision, half.providers, half.parity.min_cosine > 0.9999) == ("fp16", ("cpu", "cuda"), True)
        assert eighth.providers == (("cpu",) if eighth.operators else ("cpu", "openvino"))
        assert eighth.parity.items == 16 + len(read_golden(folder, manifest, kind)[0])
        assert (eighth.precision, eighth.batch_invariant, eighth.parity.min_cosine > 0.995) == ("int8", True, True)
        assert eighth.calibration is not None
        assert (eighth.calibration.items, eighth.calibration.method) == (16, "minmax")
        also = "and 64 texts of random words" if kind == "text" else "each also with another exposure or other colours"
        assert eighth.calibration.source.endswith(also)
        with monkeypatch.context() as with_vnni:  # for the choice only
            with_vnni.setattr(cpu, "cpu_flags", lambda *_: frozenset({"avx512_vnni"}))
            model = runtime.load(folder)
        assert (model.variant, model.variant_reason) == ("int8", "auto: the CPU has avx512_vnni")
        assert runtime.verify(folder, variant="fp16").variant == "fp16"


def test_an_unreachable_floor_is_refused_with_the_most_sensitive_nodes(text_artifact: Path) -> None:
    options = VariantOptions(precisions=("fp32", "int8"), items=16, min_cosine=1.0)
    before = contents(text_artifact)
    with pytest.raises(
        VariantError,
        match=r"text int8: none of its weights is in int8: 6 nodes stay in float32; "
        r"the most sensitive nodes: .* costs .*, .*, .*",
    ):
        add_variants(text_artifact, options)
    assert contents(text_artifact) == before


def test_batch_dependent_int8_has_to_be_accepted(text_artifact: Path) -> None:
    options = VariantOptions(precisions=("int8",), items=16, accept_batch_dependent=True, min_cosine=0.9)
    (outcome,) = add_variants(text_artifact, options)
    assert outcome.variant is not None
    assert not outcome.variant.batch_invariant
    assert "vectors DEPEND ON THE BATCH" in (text_artifact / "README.md").read_text()


def test_weights_of_variants_may_be_in_second_files(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lower limit stands in for a model of more than 2 GB."""
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_THRESHOLD_BYTES", 1000)
    graphs: set[bytes] = set()
    methods: tuple[Any, ...] = ("percentile", None)
    for method in methods:  # the second time, in place of the first
        add_variants(artifact, VariantOptions(precisions=("fp16", "int8"), items=16, method=method))
        manifest = read_manifest(artifact)
        check_files(artifact, manifest)
        variants = manifest.towers["image"].variants
        calibration = variants["int8"].calibration
        assert calibration is not None
        assert calibration.method == (method or "minmax")
        graphs.add((artifact / "image.int8.onnx").read_bytes())
        for name, variant in variants.items():
            assert variant.files() == (f"image.{name}.onnx", f"image.{name}.onnx.data")
            assert runtime.verify(artifact, variant=name).variant == name
    assert len(graphs) == 2, "the method sets the ranges"


def test_a_compact_variant_is_for_size(
    text_artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compact, "_MIN_TABLE_BYTES", 1000)
    options = VariantOptions(precisions=("compact",), items=16)
    before = contents(text_artifact)
    right = compact._round
    with monkeypatch.context() as planted:
        planted.setattr(compact, "_round", lambda array: (right(array)[0], right(array[::-1])[1]))
        with pytest.raises(VariantError, match=r"text compact: min cosine .* is below 0\.999"):
            add_variants(text_artifact, options)
        planted.setattr(recipes, "_COMPACT_SHARE", 0.01)
        (refused,) = add_variants(text_artifact, options)
        assert (refused.failed, refused.reason[-39:]) == (False, "of fp32, above 1%, so it is not written")
    assert contents(text_artifact) == before
    add_variants(text_artifact, options)
    variant = read_manifest(text_artifact).towers["text"].variants["compact"]
    assert (variant.precision, variant.providers, variant.batch_invariant) == ("compact", ("cpu",), True)
    assert "com.microsoft:MatMulNBits" in variant.operators
    assert variant.parity.min_cosine >= 0.999
    assert runtime.load(text_artifact).variant == "fp32", "auto never takes it for speed"
    assert runtime.verify(text_artifact, variant="compact").variant == "compact"
    assert runtime_main(["info", str(text_artifact)]) == 0
    assert "compact     level extended; for cpu; min cosine" in capsys.readouterr().out


def test_a_slower_variant_is_reported(text_artifact: Path) -> None:
    (outcome,) = add_variants(text_artifact, VariantOptions(items=16))
    for speedup, told in [(0.6, True), (0.99, False), (1.8, False), (None, False)]:
        described = describe_outcomes([replace(outcome, speedup=speedup)])
        assert ("text optimized is slower than fp32 on this CPU; `python -m runtime tune`" in described) is told


def test_a_t5_is_fused_into_contrib_operators(tmp_path: Path) -> None:
    folder = export(
        "jina-embedding-s-en-v1",
        output=tmp_path,
        artifact_name="toy",
        options=ExportOptions(weights=str(save_toy(tmp_path / "weights", "t5"))),
    )
    (outcome,) = add_variants(folder, VariantOptions(items=16))
    assert outcome.after is not None
    assert outcome.after.contrib_operators[":SimplifiedLayerNormalization"] == 5
    assert runtime.load(folder).variant == "optimized"


def test_int8_below_its_floor_is_built_once_more_with_a_higher_target(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: list[float] = []
    recipe, measure = recipes.RECIPES["int8"], VariantGate.measure
    costs = (NodeCost(node="a", cost=0.1, alone=True), NodeCost(node="b", cost=0.01, alone=True))

    def record(inputs: recipes.RecipeInputs) -> recipes.RecipeResult:
        assert inputs.costs == (costs if targets else ())  # they are measured once
        targets.append(inputs.min_cosine)
        return replace(recipe(inputs), calibration_cosine=0.96, costs=costs)

    def refuse(gate: VariantGate, *arguments: Any, **named: Any) -> Any:
        if len(targets) < refusals + 1:
            raise FloorError("below the floor", 0.8)
        return measure(gate, *arguments, **named)

    monkeypatch.setattr(builder, "RECIPES", {"int8": record})
    monkeypatch.setattr(VariantGate, "measure", refuse)
    refusals = 1
    (outcome,) = add_variants(artifact, VariantOptions(precisions=("int8",), items=16, min_cosine=0.9))
    assert (outcome.variant is None, outcome.reason, outcome.failed) == (False, "", False)
    assert targets == pytest.approx([0.93, 1 - 0.7 * 0.5 * 0.04])
    targets.clear()
    refusals = 2
    with pytest.raises(
        VariantError, match=r"below the floor; 0 nodes stay .*; the most sensitive nodes: a costs 1\.0e-01, b costs"
    ):
        add_variants(artifact, VariantOptions(precisions=("int8",), items=16, min_cosine=0.9))
    assert len(targets) == 2


def test_a_file_system_without_hard_links_and_a_full_disk(
    text_artifact: Path, monkeypatch: pytest.MonkeyPatch, small_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    add_variants(text_artifact, VariantOptions(items=16))
    check_files(text_artifact, read_manifest(text_artifact))
    good = contents(text_artifact)
    with small_disk(), pytest.raises(DestinationError, match=r"; free some disk space, there and in /"):
        add_variants(text_artifact, VariantOptions(items=16))
    assert contents(text_artifact) == good
    assert [path.name for path in text_artifact.parent.iterdir()] == ["toy"]


def test_an_artifact_that_changes_meanwhile_is_not_replaced(
    text_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = VariantGate.measure

    def other_process(gate: VariantGate, *arguments: Any, **named: Any) -> Any:
        monkeypatch.undo()
        add_variants(text_artifact, VariantOptions(precisions=("fp16",), items=16))
        return measure(gate, *arguments, **named)

    monkeypatch.setattr(VariantGate, "measure", other_process)
    with pytest.raises(DestinationError, match="toy has changed while its variants were made; run the command again"):
        add_variants(text_artifact, VariantOptions(items=16))
    manifest = read_manifest(text_artifact)
    check_files(text_artifact, manifest)
    assert list(manifest.towers["text"].variants) == ["fp16"]
    assert [path.name for path in text_artifact.parent.iterdir()] == ["toy"]


def test_an_artifact_that_cannot_be_replaced_is_refused_with_a_way_out(text_artifact: Path) -> None:
    link = text_artifact.with_name("link")
    link.symlink_to(text_artifact)
    with pytest.raises(
        DestinationError, match=r"is a symbolic link to .*toy, so it is not replaced; name that folder it"
    ):
        add_variants(link, VariantOptions(items=16))
    (text_artifact / ".DS_Store").touch()
    with pytest.raises(DestinationError, match=r"holds \.DS_Store beside .*; move them away$"):
        add_variants(text_artifact, VariantOptions(items=16))


def test_weights_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "toy")
    (tmp_path / "secret").write_bytes(bytes(8))
    graph = onnx.load(folder / "text.onnx")
    axes = graph.graph.initializer[0]
    axes.CopyFrom(numpy_helper.from_array(np.array([1]), axes.name))
    set_external_data(axes, "../secret", length=8)
    axes.ClearField("raw_data")
    (folder / "text.onnx").write_bytes(graph.SerializeToString())
    manifest = read_manifest(folder)
    files = dict(manifest.files) | {"text.onnx": record_file(folder / "text.onnx")}
    (folder / "manifest.json").write_text(replace(manifest, files=files).to_json(), "utf-8")
    with pytest.raises(
        runtime.IntegrityError, match=r"takes weights from '\.\./secret', which its manifest does not list"
    ):
        add_variants(folder, VariantOptions(precisions=["fp32"]))
