"""Test what a report says of its results: speedups, rooflines, costs and recommendations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.report.analysis import Study, analyze
from benchmarks.report.caveats import caveats
from benchmarks.report.plots import parity_plot, throughput_plot
from benchmarks.report.recommendations import recommend
from benchmarks.report.roofline import Roofline, find_roofline
from benchmarks.report.speedup import compute_speedup
from benchmarks.report.summary import summarize_section
from benchmarks.report.table import Table
from benchmarks.report.tables import cost_table, parity_table, times_tables, worst_items_table, worst_rows
from benchmarks.results.schema import Case, TimedItems, Work, Worst
from runtime.cli.main import build_parser
from runtime.session.provider_options import OpenVinoOptions, parse_options
from tests.benchmarks.report.samples import FULL, PRICES, SAMPLES, html_of, markdown_of
from tests.benchmarks.samples import CASE, CEILINGS, NOT_WITH_TORCH, PARITY, RESULTS, many_cases


def test_speedup_compares_times_of_the_same_round() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0]
    ours = replace(CASE, rounds=tuple((0.01 * slow,) for slow in drift))
    theirs = replace(CASE, rounds=tuple((0.02 * slow,) for slow in drift))
    ratio = compute_speedup(ours, theirs, 0.95)
    assert [ratio.times, ratio.low, ratio.high] == pytest.approx([2, 2, 2])
    assert ratio.distinguishable


def test_speedup_over_torch_needs_the_same_work(full: Study) -> None:
    (section,) = full.sections
    ratios = {(row.label, row.case.stage, row.case.items): row.speedup for row in section.rows}
    assert ratios["runtime int8 on cpu", "end_to_end", 8] is None
    assert ratios["torch eager on cpu", "graph", 8] is None
    int8 = ratios["runtime int8 on cpu", "graph", 8]
    assert int8 is not None
    assert int8.times == pytest.approx(1.25 / 0.55, rel=0.03)


def test_the_roofline_names_the_limit() -> None:
    work = Work(operations=11 * 10**8, read_bytes=4 * 10**7, written_bytes=0)
    case = replace(CASE, work=work)
    found = find_roofline(case, 20.0, CEILINGS)
    assert isinstance(found, Roofline)
    assert found.bound == "arithmetic"
    assert [found.share, found.attainable_ms, found.intensity] == pytest.approx([0.5, 10, 27.5])
    starved = find_roofline(replace(case, work=replace(work, read_bytes=16 * 10**7)), 40.0, CEILINGS)
    assert isinstance(starved, Roofline)
    assert starved.bound == "memory"
    assert starved.share == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("case", "ceilings", "reason"),
    [
        (replace(CASE, precision="bf16"), CEILINGS, "no peak rate of bf16 was measured on cpu"),
        (replace(CASE, provider="cuda"), CEILINGS, "no peak rate of fp32 was measured on cuda"),
        (CASE, None, "the peak rates of the machine were not measured"),
        (CASE, replace(CEILINGS, read_bytes_per_s={}), "no peak rate of memory was measured on cpu"),
    ],
    ids=["precision", "device", "none", "memory"],
)
def test_a_missing_peak_rate_is_named(case: Case, ceilings: None, reason: str) -> None:
    assert find_roofline(replace(case, work=Work(operations=1, read_bytes=1, written_bytes=1)), 1.0, ceilings) == reason


def test_cost_follows_from_price_and_throughput(full: Study) -> None:
    ends = [row for row in full.rows if row.case.stage == "end_to_end"]
    assert all(row.cost_per_million == pytest.approx(100 / row.summary.items_per_s) for row in ends)
    assert all(row.cost_per_million is None for row in full.rows if row.case.stage == "graph")


def test_every_figure_is_that_of_its_heading() -> None:
    def first_row(table: Table) -> dict[str, str]:
        return {name: cell.text for name, cell in zip(table.header, table.rows[0], strict=True)}

    parity = replace(PARITY, min_cosine=0.9999, worst=(Worst(item="another", cosine=0.9999),))
    near = replace(CASE, items=8, parity=parity, rounds=((0.16,) * 4,) * 10)
    study = analyze(replace(RESULTS, cases=(CASE, near)), PRICES)
    (section,) = study.sections
    times, _ = times_tables(section)
    shown = first_row(parity_table(section.rows)) | first_row(times) | first_row(cost_table(section, study))
    expected = {"min cosine": "0.99712", "p1 cosine": "0.9973", "mean cosine": "0.9989", "overlap@10": "0.967"}
    expected |= {"max abs error": "0.0110", "relative error": "0.0400", "items": "64", "items/s": "100"}
    expected |= {"calls": "40", "peak host memory, MiB": "180", "cold start, s": "0.630"}
    assert shown.items() >= (expected | {"hours per million": "2.78", "EUR per million": "1.00"}).items()
    assert worst_rows(section) == [section.rows[0]]
    assert [row[2].text for row in worst_items_table(section).rows] == ["0.99712", "0.9973"]
    said = " ".join(summarize_section(section, study))
    assert "of any item to torch: fp32 0.99712." in said
    assert "At that rate, a million embeddings cost 2.00 EUR." in said, "of the setup with torch's vectors"
    assert "takes 0.630 s from a cold start" in said


def test_setups_with_other_vectors_are_not_recommended_first() -> None:
    near = replace(PARITY, min_cosine=0.9999)
    cases = [replace(c, parity=near if c.variant == "fp32" else PARITY) for c in many_cases() if c.contender != "torch"]
    (section,) = analyze(replace(RESULTS, cases=tuple(cases)), None).sections
    first, *_, last = recommend(section)
    assert (first.row.label, last.row.label) == ("runtime fp32 on cpu", "runtime int8 on cpu")
    assert first.row.case.stage == "end_to_end"
    assert first.command(2) == "--provider cpu --variant fp32 --threads 2"
    said = " ".join(summarize_section(section, analyze(FULL, None)))
    assert "Fastest setup with a cosine of at least 0.999: runtime fp32" in said
    assert "Faster, but with a smallest cosine of 0.99712: 1.8" in said


@pytest.mark.parametrize(
    ("provider", "variant", "chosen"),
    [
        ("cpu", "optimized", ("optimized", None)),
        ("openvino", "bf16", ("fp32", OpenVinoOptions(dtype="bf16"))),
        ("openvino", "fp32", ("fp32", OpenVinoOptions(dtype="fp32"))),
        ("openvino", "int8", ("int8", OpenVinoOptions(dtype="fp32"))),
    ],
)
def test_the_runtime_understands_a_recommended_command(
    provider: str, variant: str, chosen: tuple[str, OpenVinoOptions | None]
) -> None:
    case = replace(CASE, provider=provider, variant=variant, parity=replace(PARITY, min_cosine=1.0))
    (section,) = analyze(replace(RESULTS, cases=(case,)), None).sections
    words = recommend(section)[0].command(2).split()
    arguments = build_parser().parse_args(["embed", "artifact", "items", "-o", "vectors.npy", *words])
    assert (arguments.variant, parse_options(arguments.provider, arguments.provider_option)) == chosen
    assert (arguments.batch_size, arguments.threads) == (None, 2), "the contender calls embed without a batch size"


def test_a_case_does_not_have_the_highest_throughput_by_noise() -> None:
    steady = replace(CASE, items=32, rounds=((0.32,) * 4,) * 10)
    noisy = replace(CASE, rounds=((0.007,) * 4, (0.0125,) * 4) * 5)
    study = analyze(replace(RESULTS, cases=(steady, noisy)), None)
    rates = {row.case.items: row.summary.items_per_s for row in study.rows}
    assert rates[1] > rates[32]
    assert recommend(study.sections[0])[0].row.case.items == 32


def test_calls_with_other_items_count_by_their_mean() -> None:
    alone = replace(CASE, rounds=((0.002, 0.002, 0.056),) * 10)  # a median text has 2 ms, and a text takes 20 ms
    batch = replace(CASE, items=32, rounds=((0.32,),) * 10)
    study = analyze(replace(RESULTS, cases=(alone, batch)), None)
    assert recommend(study.sections[0])[0].row.case is batch
    faster = replace(alone, rounds=((0.002, 0.002, 0.026),) * 10)
    assert compute_speedup(faster, alone, 0.95).times == pytest.approx(2)
    graph = replace(CASE, stage="graph", rounds=((0.002, 0.002, 0.056),) * 10)
    assert compute_speedup(replace(graph, rounds=((0.002,) * 3,) * 10), graph, 0.95).times == 1, "a slow call"


def test_the_sizes_of_the_timed_items_are_told() -> None:
    timed = TimedItems(source="mine.txt", are_texts=True, sizes=(900, 20, 80))
    results = replace(RESULTS, timed_items={"text": timed}, mean_tokens={"toy-text": 157.0})
    told = "Times end to end are those of 3 texts of 20 to 900 characters (median 80), from mine.txt."
    assert f"{told} Their mean length is 157 tokens" in markdown_of(results, None)
    assert told not in markdown_of(replace(results, cases=(replace(CASE, stage="graph"),)), None)
    assert "do not record the sizes of the items" in markdown_of(RESULTS, None)


def test_setups_that_were_not_compared_do_not_match_torch() -> None:
    bare = SAMPLES["bare"]
    (section,) = analyze(bare, None).sections
    assert "The vectors were not compared with torch." in summarize_section(section, analyze(bare, None))
    assert {row.label for row in section.rows if row.matches_torch} == {"torch eager on cpu"}


def test_a_comparison_with_the_graph_is_none_with_torch() -> None:
    results = replace(RESULTS, cases=(replace(CASE, parity=NOT_WITH_TORCH),))
    study = analyze(results, None)
    (section,) = study.sections
    assert summarize_section(section, study)[0] == "The vectors were not compared with torch."
    assert "of at least 0.999" not in " ".join(summarize_section(section, study))
    assert not section.rows[0].matches_torch
    assert parity_plot(section) is None
    assert {best.goal.partition(", ")[2] for best in recommend(section)} == {"any cosine"}
    assert "The graph is the artifact's own, not torch." in parity_table(section.rows).note
    assert any("toy-text, text tower were not compared with torch" in caveat for caveat in caveats(study))
    assert "Cosine similarity to torch" not in html_of(results, None)


def test_the_pareto_front_holds_the_unbeaten_setups(full: Study) -> None:
    plot = throughput_plot(full.sections[0], full)
    assert plot is not None
    assert "EUR per million" in plot.body
    assert "runtime int8 on cpu with batch size 1;" in plot.description
    assert "fp32" not in plot.description


def test_a_quiet_and_complete_run_has_no_warnings() -> None:
    assert caveats(analyze(RESULTS, None)) == ()
    assert "caveats" not in html_of(RESULTS, None).split("</style>")[1]
