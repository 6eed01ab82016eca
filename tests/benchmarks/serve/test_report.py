"""Test that the report of a load test shows the results, warns, and escapes hostile names."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.results.prices import Prices
from benchmarks.results.schema import ResultsError, read_results
from benchmarks.serve import offline
from benchmarks.serve.analysis import analyze
from benchmarks.serve.doubts import faults, warnings
from benchmarks.serve.plots import latency_plot, throughput_plot
from benchmarks.serve.report import render_html, render_markdown, write_serve_report
from benchmarks.serve.schema import ServeResults, WorkloadRecord
from benchmarks.serve.tables import glance_table
from tests.benchmarks.report.reading import check_page, columns, read
from tests.benchmarks.report.samples import NASTY, PRICES
from tests.benchmarks.serve.samples import LOAD, RESULTS

FAILED = replace(LOAD, completed=0, latency_s=(), failures={"refused: status 429": 7, "timeout: timeout": 2})
OFFLINE = replace(LOAD, server=offline.NAME, clients=None, completed=500, latency_s=(), checked=0)
SAMPLES = {
    "full": RESULTS,
    "one load": replace(RESULTS, loads=(LOAD,), max_p99_ms=None, reference=None),
    "offline": replace(RESULTS, loads=(OFFLINE, *RESULTS.loads)),
    "offline alone": replace(RESULTS, loads=(OFFLINE,)),
    "one rate": replace(RESULTS, loads=(replace(LOAD, clients=None, rate=3.0),)),
    "two rates": replace(RESULTS, loads=tuple(replace(LOAD, clients=None, rate=rate) for rate in (3.0, 4.0))),
    "failures alone": replace(RESULTS, loads=(FAILED, replace(FAILED, clients=None, rate=5.0))),
    "cut short": replace(RESULTS, complete=False, loads=RESULTS.loads[:3]),
    "remote": replace(
        RESULTS,
        loads=tuple(
            replace(load, server_cpu_s=None, server_bytes=None, min_cosine=None, max_difference=None)
            for load in RESULTS.loads
        ),
    ),
}


@pytest.mark.parametrize("prices", [None, PRICES], ids=["unpriced", "priced"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_every_kind_of_results_gives_a_valid_page(sample: str, prices: Prices | None) -> None:
    study = analyze(SAMPLES[sample], prices)
    reader = check_page(render_html(study))
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert render_markdown(study).startswith("# Servers under load on toy")


def test_the_summary_has_knee_capacity_and_cost() -> None:
    table = glance_table(analyze(RESULTS, PRICES))
    assert len(table.rows) == 4
    ours = dict(zip(table.header, (cell.text for cell in table.rows[0]), strict=True))
    assert ours["server"] == "ours"
    assert ours["most items/s"] == "300"
    assert ours["CPU ms per item"] == "3.00"
    assert ours["sustained, requests/s"] == "285"
    assert ours["knee, requests/s"] == "150"
    assert ours["requests/s within p99 of 50.0 ms"] == "240"
    assert float(ours["EUR per million items within p99 of 50.0 ms"]) == pytest.approx(
        0.36 / 3600 / 240 * 1e6, abs=1e-3
    )


def test_ratios_are_of_the_same_round() -> None:
    ours = [replace(LOAD, round=n, completed=speed) for n, speed in enumerate((100, 200, 400))]
    theirs = [replace(LOAD, server="theirs", round=n, completed=speed) for n, speed in enumerate((200, 400, 880))]
    page = render_markdown(analyze(replace(RESULTS, loads=(*ours, *theirs)), None))
    assert "| theirs | 1 | 80.0 | 2.00 2.00 to 2.20 |" in page
    embed = [replace(OFFLINE, round=n, completed=speed) for n, speed in enumerate((400, 400, 400))]
    page = render_markdown(analyze(replace(RESULTS, loads=(*ours, *theirs, *embed)), None))
    assert "| theirs | 1 | 80.0 | 1.00 0.500 to 2.20 |" in page
    assert "| embed, no server | - | 80.0 | |" in page


def test_plots_show_both_loops_and_mark_the_knee() -> None:
    study = analyze(RESULTS, None)
    plot = throughput_plot(study.curves[:2])
    assert plot is not None
    assert [name for _, name in plot.legend] == ["ours", "theirs"]
    assert plot.body.count("stroke-dasharray") == 2
    assert plot.body.count('class="hollow"') == 2
    rates = latency_plot(study.curves[0])
    assert rates is not None
    assert "knee" in rates.body
    assert [name for _, name in rates.legend] == ["p50", "p95", "p99"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"generator_cpu": 0.9}, "may be the bottleneck"),
        ({"late_s": 0.5}, "sent requests late"),
        ({"max_difference": 1.1e-5}, "Vectors depend on the load: those of ours differ by up to 1.1e-05"),
        ({"min_cosine": 0.9}, "Other vectors than those of toy: ours"),
        ({"failures": {"wrong: 3 dimensions": 1}}, "Answers without the right vectors: ours"),
        ({"failures": {"timeout: timeout": 10}}, "Requests without vectors: 20% of ours (short, 1 client)."),
        ({"checked": 20}, "50% of the answers were not checked"),
        ({"completed": 9}, "Fewer than 10 answers in 1 closed loop, of ours"),
        ({"stolen": 0.2}, "The host took CPU time"),
    ],
)
def test_reasons_to_distrust_are_named(changes: dict[str, float], words: str) -> None:
    assert not warnings(analyze(replace(RESULTS, loads=(LOAD,)), None))
    first, *_ = warnings(analyze(replace(RESULTS, loads=(replace(LOAD, **changes),)), None))  # type: ignore[arg-type]
    assert words in first


@pytest.mark.parametrize(
    ("changes", "number"), [({"min_cosine": 0.9}, 1), ({"failures": {"wrong: x": 1}}, 1), ({"max_difference": 0.01}, 0)]
)
def test_wrong_vectors_are_faults(changes: dict[str, float], number: int) -> None:
    load = replace(LOAD, **changes)  # type: ignore[arg-type]
    assert len(faults(analyze(replace(RESULTS, loads=(load,)), None))) == number


def test_a_limit_that_no_higher_rate_confirms_is_marked() -> None:
    loads = tuple(load for load in RESULTS.loads if load.rate is None or load.rate < 200)
    tried = "the highest tried"
    for results, knee, aside in ((RESULTS, "150", ""), (replace(RESULTS, loads=loads), "-", tried)):
        table = glance_table(analyze(results, None))
        ours = dict(zip(table.header, table.rows[0], strict=True))
        assert ours["knee, requests/s"].text == knee, "nothing shows the latency at a higher rate"
        assert [ours[name].aside for name in table.header if "requests/s" in name] == ["", aside, aside]


def test_a_rate_is_not_called_sustained_from_too_few_requests() -> None:
    few = replace(LOAD, clients=None, rate=1.6, completed=5, latency_s=(1.0,) * 8)
    study = analyze(replace(RESULTS, loads=(few,), max_p99_ms=None), None)
    assert "At some rates, too few requests show whether ours sustained them" in warnings(study)[0]
    page = render_markdown(study)
    assert "ours: too few requests to tell what it sustains." in page
    assert "too few requests" in [cell.text for cell in glance_table(study).rows[0]]


def test_a_bound_is_not_compared_with_the_p99_of_too_few_requests() -> None:
    few = replace(LOAD, clients=None, rate=3.0, completed=20, latency_s=(0.01,) * 20, checked=20)
    study = analyze(replace(RESULTS, loads=(few,)), PRICES)
    assert "Too few requests to compare the p99 of ours" in warnings(study)[0]
    table = glance_table(study)
    cells = [cell.text for cell in table.rows[0]]
    assert cells[-2:] == ["too few requests", "-"]
    assert "it sustains 3.00 requests/s; too few requests" in render_markdown(study)


def test_a_machine_without_a_price_is_named() -> None:
    study = analyze(replace(RESULTS, machine=replace(RESULTS.machine, name="other")), PRICES)
    assert "has no price for other; set the name with --machine" in glance_table(study).note


def test_failures_have_a_table_with_their_reasons() -> None:
    page = render_markdown(analyze(replace(RESULTS, loads=(replace(LOAD, failures={"refused: status 429": 1}),)), None))
    assert "| ours | 1 client | refused: status 429 | 1 | 2.4% |" in page


def nasty() -> ServeResults:
    server = replace(RESULTS.servers[0], name=NASTY, url=NASTY, model=NASTY)
    load = replace(LOAD, server=NASTY, workload=NASTY, failures={NASTY: 1})
    loads = (load, *(replace(load, clients=None, rate=rate) for rate in (1.0, 2.0)))
    workloads = (WorkloadRecord(name=NASTY, source=NASTY, sha256=""),)
    machine = replace(RESULTS.machine, name=NASTY)
    return replace(
        RESULTS, command=NASTY, reference=NASTY, machine=machine, servers=(server,), workloads=workloads, loads=loads
    )


def test_hostile_names_are_escaped() -> None:
    page = render_html(analyze(nasty(), None))
    reader = read(page)
    assert "script" not in reader.tags
    assert all(address.startswith("#") for address in reader.addresses)
    text = render_markdown(analyze(nasty(), None))
    assert "<script" not in text
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        assert len({columns(line) for line in block.splitlines()}) == 1


def test_results_keep_every_time(tmp_path: Path) -> None:
    paths = write_serve_report(RESULTS, tmp_path, ("json", "html", "md"))
    assert [path.name for path in paths] == ["results.json", "report.html", "report.md"]
    document = json.loads(paths[0].read_text())
    assert document == json.loads(json.dumps(asdict(RESULTS)))
    with pytest.raises(ResultsError, match="no schema_version"):
        read_results(tmp_path)  # by other commands
