"""Test that the report shows the results, escapes hostile names and loads nothing from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.report import write_report
from benchmarks.report.analysis import Study, analyze
from benchmarks.report.caveats import caveats
from benchmarks.report.format import cosine, digits, percent, short
from benchmarks.report.html import render_html
from benchmarks.report.markdown import render_markdown
from benchmarks.report.plots import throughput_plot
from benchmarks.report.recommendations import recommend
from benchmarks.report.roofline import Roofline, find_roofline
from benchmarks.report.speedup import compute_speedup
from benchmarks.report.summary import summarize_section
from benchmarks.results.prices import MachinePrice, Prices
from benchmarks.results.schema import Case, Results, Skipped, Work, Worst, read_results
from runtime.cli.main import build_parser
from runtime.errors import OutputError
from runtime.session.provider_options import OpenVinoOptions, parse_options
from tests.benchmarks.samples import ARTIFACT, CASE, CEILINGS, MACHINE, PARITY, RESULTS, many_cases, timed

VOID = {"meta", "br", "hr", "img", "input", "link"}
NASTY = "<script>alert('x')</script> & \"q\" | `tick` [a](http://b) \x00\udcff\u2028 *b*"


PRICES = Prices(
    date="2026-11-01", currency="EUR", machines={MACHINE.name: MachinePrice(per_hour=0.36, source="an offer")}
)


class Reader(HTMLParser):
    """Check that elements are closed in order, and collect tags, ids and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "srcset", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def html_of(results: Results, prices: Prices | None) -> str:
    return render_html(analyze(results, prices))


def markdown_of(results: Results, prices: Prices | None) -> str:
    return render_markdown(analyze(results, prices))


def drawings(page: str) -> list[ET.Element]:
    return [ET.fromstring(svg) for svg in re.findall(r"<svg viewBox=.*?</svg>", page, re.S)]  # noqa: S314 - our own


FULL = replace(RESULTS, cases=many_cases())
TWO_TOWERS = replace(
    RESULTS,
    artifacts=(ARTIFACT, replace(ARTIFACT, name="other", random=True)),
    cases=(
        *many_cases()[:6],
        *(replace(case, tower="image") for case in many_cases()[:3]),
        replace(timed(CASE, 0.02), artifact="other", tower="mesh"),
    ),
)
SAMPLES = {
    "full": FULL,
    "two towers": TWO_TOWERS,
    "one case": replace(RESULTS, ceilings=None),
    "no case": replace(RESULTS, cases=(), skipped=()),
    "no artifact": replace(RESULTS, cases=(), artifacts=(), complete=False),
    "bare": replace(FULL, cases=tuple(replace(case, parity=None, work=None, stages={}) for case in FULL.cases)),
    "one round": replace(RESULTS, cases=(replace(CASE, rounds=((0.01,),), yardstick=(0.05,)),)),
    "cut short": replace(RESULTS, cases=(CASE, replace(CASE, items=8, rounds=()))),
    "same times": replace(RESULTS, cases=(CASE, replace(CASE, items=2))),
    "exact": replace(RESULTS, cases=(replace(CASE, parity=replace(PARITY, min_cosine=1.0)),)),
    "no likeness": replace(RESULTS, cases=(replace(CASE, parity=replace(PARITY, min_cosine=-0.3)),)),
    "no number": replace(RESULTS, cases=(replace(CASE, parity=replace(PARITY, min_cosine=float("nan"))),)),
    "no work": replace(
        FULL, cases=tuple(replace(case, work=Work(operations=0, read_bytes=0, written_bytes=0)) for case in FULL.cases)
    ),
}


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the bootstrap fast; other tests cover the intervals."""
    monkeypatch.setattr("benchmarks.results.statistics._RESAMPLES", 100)


@pytest.fixture
def full() -> Study:
    return analyze(FULL, PRICES)


@pytest.mark.parametrize("prices", [None, PRICES], ids=["unpriced", "priced"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_every_kind_of_results_gives_a_valid_page(sample: str, prices: Prices | None) -> None:
    page = html_of(SAMPLES[sample], prices)
    reader = read(page)
    assert len(set(reader.ids)) == len(reader.ids)
    assert {address.removeprefix("#") for address in reader.addresses} <= set(reader.ids)
    for drawing in drawings(page):
        values = [value for element in drawing.iter() for value in element.attrib.values()]
        assert not any("nan" in value or "inf" in value for value in values)
    assert markdown_of(SAMPLES[sample], prices).startswith("# Benchmarks on toy")


def test_plots_have_a_title_and_a_description_for_screen_readers() -> None:
    plots = [drawing for drawing in drawings(html_of(FULL, None)) if drawing.get("role") == "img"]
    assert len(plots) == 6
    assert all(plot.findtext("title") and plot.findtext("desc") for plot in plots)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = html_of(FULL, PRICES)
    assert not {"script", "link", "img", "iframe"} & set(read(page).tags)
    assert not re.search(r"https?:|url\((?!#)|@import|//", page)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in page


def test_the_report_is_small(tmp_path: Path) -> None:
    artifacts = tuple(replace(ARTIFACT, name=f"toy-{n}") for n in range(8))
    cases = tuple(replace(case, artifact=artifact.name) for artifact in artifacts for case in many_cases())
    results = replace(RESULTS, artifacts=artifacts, cases=cases)
    assert len(cases) == 192
    page, text = write_report(results, tmp_path, ["html", "md"], PRICES)
    assert page.stat().st_size < 400_000
    assert text.stat().st_size < 65_536  # the limit of a comment on GitHub


def nasty() -> Results:
    worst = (Worst(item=NASTY, cosine=0.5),)
    case = replace(CASE, artifact=NASTY, contender=NASTY, variant=NASTY, provider=NASTY, stages={NASTY: 0.1, "b": 0.2})
    return replace(
        RESULTS,
        date=NASTY,
        command=NASTY,
        machine=replace(MACHINE, name=NASTY, cpu=NASTY, system=NASTY, packages={NASTY: NASTY}),
        artifacts=(replace(ARTIFACT, name=NASTY, backbone=NASTY, weights=NASTY, task=NASTY, random=True),),
        cases=(replace(case, parity=replace(PARITY, reference=NASTY, worst=worst)),),
        skipped=(Skipped(name=NASTY, reason=NASTY),),
    )


def test_hostile_names_are_escaped_in_the_page() -> None:
    page = html_of(nasty(), None)
    reader = read(page)
    assert "script" not in reader.tags
    assert all(address.startswith("#") for address in reader.addresses)
    assert page.count("&lt;script&gt;") > 10
    assert not re.search(r"[\x00\udcff]", page)
    page.encode("utf-8")


def test_hostile_names_are_escaped_in_the_markdown(tmp_path: Path) -> None:
    text = markdown_of(nasty(), None)
    assert "<script" not in text
    assert "[a](" not in text.replace("\\[", "")
    for header, rule in re.findall(r"^(\|.*\|)\n(\|[- :|]+\|)$", text, re.M):
        assert columns(header) == columns(rule)
    rows = [line for line in text.splitlines() if "alert" in line and line.startswith("|")]
    assert rows
    assert all("\\`tick\\`" in row for row in rows)
    assert [path.name for path in write_report(nasty(), tmp_path, ["html", "md"])] == ["report.html", "report.md"]


def columns(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


def test_markdown_rows_have_as_many_columns_as_their_header() -> None:
    blocks = re.findall(r"(?:^\|.*\|\n)+", markdown_of(nasty(), PRICES), re.M)
    assert blocks
    for block in blocks:
        assert len({columns(line) for line in block.splitlines()}) == 1


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


def test_the_page_names_setups_without_a_roofline() -> None:
    assert "No roofline for torch bf16 on cpu: no peak rate of bf16 was measured on cpu." in html_of(FULL, None)


def test_stages_that_were_not_measured_have_no_heading() -> None:
    page = html_of(SAMPLES["one case"], None)
    assert "Graph only" not in page
    assert "Share of the roofline" not in page


def test_cost_follows_from_price_and_throughput(full: Study) -> None:
    ends = [row for row in full.rows if row.case.stage == "end_to_end"]
    assert all(row.cost_per_million == pytest.approx(100 / row.summary.items_per_s) for row in ends)
    assert all(row.cost_per_million is None for row in full.rows if row.case.stage == "graph")


def test_without_a_price_there_is_no_cost() -> None:
    elsewhere = replace(FULL, machine=replace(MACHINE, name="elsewhere"))
    page = html_of(elsewhere, PRICES)
    assert "The price file of 2026-11-01 has no price for elsewhere" in page
    assert "EUR" not in page
    assert "Without --prices" in html_of(FULL, None)


def test_setups_with_other_vectors_are_not_recommended_first() -> None:
    near = replace(PARITY, min_cosine=0.9999)
    cases = [replace(c, parity=near if c.variant == "fp32" else PARITY) for c in many_cases() if c.contender != "torch"]
    (section,) = analyze(replace(RESULTS, cases=tuple(cases)), None).sections
    first, *_, last = recommend(section)
    assert (first.row.label, last.row.label) == ("runtime fp32 on cpu", "runtime int8 on cpu")
    assert first.row.case.stage == "end_to_end"
    assert first.command(2) == f"--provider cpu --variant fp32 --batch-size {first.row.case.items} --threads 2"
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
    assert (arguments.batch_size, arguments.threads) == (1, 2)


def test_setups_that_were_not_compared_do_not_match_torch() -> None:
    bare = SAMPLES["bare"]
    (section,) = analyze(bare, None).sections
    assert "The vectors were not compared with torch." in summarize_section(section, analyze(bare, None))
    assert {row.label for row in section.rows if row.matches_torch} == {"torch eager on cpu"}


def test_the_pareto_front_holds_the_unbeaten_setups(full: Study) -> None:
    plot = throughput_plot(full.sections[0], full)
    assert plot is not None
    assert "EUR per million" in plot.body
    assert "runtime int8 on cpu with batch size 1;" in plot.description
    assert "fp32" not in plot.description


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (replace(FULL, complete=False), "The run stopped before everything was measured"),
        (TWO_TOWERS, "Random weights in other:"),
        (replace(FULL, machine=replace(MACHINE, load_average=(1.2, 0, 0))), "a load average of 1.20 on 2 cores"),
        (FULL, "Unstable times in 6 of 24 cases"),
        (SAMPLES["one round"], "Fewer than 5 rounds in 1 of 1 case"),
        (replace(FULL, cases=(CASE, replace(CASE, items=2, yardstick=(0.08,) * 10))), "took 50.0 to 80.0 ms"),
        (
            replace(FULL, cases=(CASE, replace(CASE, items=2, stolen=(0.0, 0.5)))),
            "more than 5% in 1 of 2 cases, and up to 25%",
        ),
    ],
    ids=["incomplete", "random", "busy", "unstable", "few rounds", "restless", "robbed"],
)
def test_warnings_come_first(results: Results, words: str) -> None:
    assert any(words in caveat for caveat in caveats(analyze(results, None)))
    page = html_of(results, None)
    assert page.index(words) < page.index("At a glance")
    assert words in markdown_of(results, None)


def test_a_quiet_and_complete_run_has_no_warnings() -> None:
    assert caveats(analyze(RESULTS, None)) == ()
    assert "caveats" not in html_of(RESULTS, None).split("</style>")[1]


def test_the_unstable_mark_follows_the_number() -> None:
    (noisy,) = [c for c in many_cases() if (c.label, c.stage, c.items) == ("torch bf16 on cpu", "graph", 128)]
    results = replace(RESULTS, cases=(noisy,))
    assert re.search(r"<small>\[[\d.,]+ [\d.,]+\]</small> <em>unstable</em></td>", html_of(results, None))
    assert re.search(r"\\\[[\d.,]+ [\d.,]+\\\] \*\*unstable\*\*", markdown_of(results, None))


def test_the_parts_of_the_page_keep_their_order() -> None:
    page = html_of(FULL, None)
    questions = (
        "Are the vectors right?",
        "How fast is it?",
        "What do a million embeddings cost?",
        "Which settings",
        "Machine</h2>",
    )
    places = [page.index(question) for question in questions]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12.34, "12.3"),
        (9.996, "10.0"),
        (0.0123456, "0.0123"),
        (1234.5, "1,230"),
        (2.5e7, "2.50e+07"),
        (1e-5, "1.00e-05"),
        (None, "-"),
        (float("nan"), "nan"),
    ],
)
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert digits(value) == text


def test_shares_ticks_and_cosines_are_short() -> None:
    assert [percent(share) for share in (0.0, 0.034, 0.5, 1.2)] == ["0%", "3.4%", "50%", "120%"]
    assert [short(tick) for tick in (0.5, 10.0, 1000.0)] == ["0.5", "10", "1,000"]
    assert (cosine(0.99712), cosine(None)) == ("0.99712", "-")
    assert cosine(1 - 3e-12) == "1\u00a0-\u00a03.0e-12"


def test_each_format_is_written_to_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    paths = write_report(FULL, folder, ["html", "md", "json"], PRICES)
    assert paths == [folder / "report.html", folder / "report.md", folder / "results.json"]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert read_results(folder) == FULL
    assert "EUR" in paths[0].read_text("utf-8")


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot create"):
        write_report(RESULTS, tmp_path / "file" / "report", ["md"])
