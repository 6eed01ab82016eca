"""The report says what the results say, lets nothing in them break out of it, and needs nothing but itself."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.report import render_html, render_markdown, write_report
from benchmarks.report.analysis import Study, study
from benchmarks.report.caveats import caveats
from benchmarks.report.format import cosine, digits, percent, short
from benchmarks.report.plots import throughput_plot
from benchmarks.report.recommendations import choices
from benchmarks.report.roofline import Roofline, place
from benchmarks.report.speedup import speed_ratio
from benchmarks.report.summary import summary
from benchmarks.results.prices import MachinePrice, Prices
from benchmarks.results.schema import Case, Results, Skipped, Work, Worst, read_results
from runtime.errors import OutputError
from tests.benchmarks.samples import ARTIFACT, CASE, CEILINGS, MACHINE, PARITY, RESULTS, many_cases, timed

VOID = {"meta", "br", "hr", "img", "input", "link"}
NASTY = "<script>alert('x')</script> & \"q\" | `tick` [a](http://b) \x00\udcff\u2028 *b*"


PRICES = Prices(
    date="2026-11-01", currency="EUR", machines={MACHINE.name: MachinePrice(per_hour=0.36, source="an offer")}
)


class Reader(HTMLParser):
    """Checks that elements are closed in their order, and keeps what a browser would show or fetch."""

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
    """Bootstraps quickly: what the intervals hold is tested elsewhere."""
    monkeypatch.setattr("benchmarks.results.statistics._RESAMPLES", 100)


@pytest.fixture
def full() -> Study:
    return study(FULL, PRICES)


@pytest.mark.parametrize("prices", [None, PRICES], ids=["unpriced", "priced"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_every_kind_of_results_gives_a_sound_page(sample: str, prices: Prices | None) -> None:
    page = render_html(SAMPLES[sample], prices)
    reader = read(page)
    assert len(set(reader.ids)) == len(reader.ids)
    assert {address.removeprefix("#") for address in reader.addresses} <= set(reader.ids)
    for drawing in drawings(page):
        values = [value for element in drawing.iter() for value in element.attrib.values()]
        assert not any("nan" in value or "inf" in value for value in values)
    assert render_markdown(SAMPLES[sample], prices).startswith("# Benchmarks on toy")


def test_plots_have_a_name_for_who_cannot_see_them() -> None:
    plots = [drawing for drawing in drawings(render_html(FULL, None)) if drawing.get("role") == "img"]
    assert len(plots) == 6
    assert all(plot.findtext("title") and plot.findtext("desc") for plot in plots)


def test_the_page_needs_nothing_from_outside() -> None:
    page = render_html(FULL, PRICES)
    assert not {"script", "link", "img", "iframe"} & set(read(page).tags)
    assert not re.search(r"https?:|url\((?!#)|@import|//", page)


def test_the_report_is_small(tmp_path: Path) -> None:
    artifacts = tuple(replace(ARTIFACT, name=f"toy-{n}") for n in range(8))
    cases = tuple(replace(case, artifact=artifact.name) for artifact in artifacts for case in many_cases())
    results = replace(RESULTS, artifacts=artifacts, cases=cases)
    assert len(cases) == 192
    page, text = write_report(results, tmp_path, ["html", "md"], PRICES)
    assert page.stat().st_size < 400_000
    assert text.stat().st_size < 65_536  # what GitHub takes as a comment


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


def test_no_name_breaks_out_of_the_page() -> None:
    page = render_html(nasty(), None)
    reader = read(page)
    assert "script" not in reader.tags
    assert all(address.startswith("#") for address in reader.addresses)
    assert page.count("&lt;script&gt;") > 10
    assert not re.search(r"[\x00\udcff]", page)
    page.encode("utf-8")


def test_no_name_breaks_out_of_the_markdown(tmp_path: Path) -> None:
    text = render_markdown(nasty(), None)
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


def test_rows_of_markdown_have_the_columns_of_their_header() -> None:
    blocks = re.findall(r"(?:^\|.*\|\n)+", render_markdown(nasty(), PRICES), re.M)
    assert blocks
    for block in blocks:
        assert len({columns(line) for line in block.splitlines()}) == 1


def test_ratios_are_of_the_same_round() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0]
    ours = replace(CASE, rounds=tuple((0.01 * slow,) for slow in drift))
    theirs = replace(CASE, rounds=tuple((0.02 * slow,) for slow in drift))
    ratio = speed_ratio(ours, theirs, 0.95)
    assert [ratio.times, ratio.low, ratio.high] == pytest.approx([2, 2, 2])
    assert ratio.distinguishable


def test_a_case_is_only_held_against_torch_at_the_same_work(full: Study) -> None:
    (section,) = full.sections
    ratios = {(row.label, row.case.stage, row.case.items): row.ratio for row in section.rows}
    assert ratios["runtime int8 on cpu", "end_to_end", 8] is None
    assert ratios["torch eager on cpu", "graph", 8] is None
    int8 = ratios["runtime int8 on cpu", "graph", 8]
    assert int8 is not None
    assert int8.times == pytest.approx(1.25 / 0.55, rel=0.03)


def test_the_roofline_names_what_binds() -> None:
    work = Work(operations=11 * 10**8, read_bytes=4 * 10**7, written_bytes=0)
    case = replace(CASE, work=work)
    found = place(case, 20.0, CEILINGS)
    assert isinstance(found, Roofline)
    assert found.bound == "arithmetic"
    assert [found.share, found.attainable_ms, found.intensity] == pytest.approx([0.5, 10, 27.5])
    starved = place(replace(case, work=replace(work, read_bytes=16 * 10**7)), 40.0, CEILINGS)
    assert isinstance(starved, Roofline)
    assert starved.bound == "memory"
    assert starved.share == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("case", "ceilings", "reason"),
    [
        (replace(CASE, precision="bf16"), CEILINGS, "no ceiling of bf16 was measured on cpu"),
        (replace(CASE, provider="cuda"), CEILINGS, "no ceiling of fp32 was measured on cuda"),
        (CASE, None, "the machine's ceilings were not measured"),
        (CASE, replace(CEILINGS, read_bytes_per_s={}), "no ceiling of memory was measured on cpu"),
    ],
    ids=["precision", "device", "none", "memory"],
)
def test_a_missing_ceiling_is_said(case: Case, ceilings: None, reason: str) -> None:
    assert place(replace(case, work=Work(operations=1, read_bytes=1, written_bytes=1)), 1.0, ceilings) == reason


def test_the_page_says_what_has_no_place_under_the_roofline() -> None:
    assert "Not of torch bf16 on cpu: no ceiling of bf16 was measured on cpu." in render_html(FULL, None)


def test_what_was_not_measured_has_no_heading() -> None:
    page = render_html(SAMPLES["one case"], None)
    assert "The graph alone" not in page
    assert "Share of the roofline" not in page


def test_cost_is_the_hour_shared_by_what_it_embeds(full: Study) -> None:
    ends = [row for row in full.rows if row.case.stage == "end_to_end"]
    assert all(row.cost_per_million == pytest.approx(100 / row.summary.items_per_s) for row in ends)
    assert all(row.cost_per_million is None for row in full.rows if row.case.stage == "graph")


def test_without_a_price_no_cost_is_made_up() -> None:
    elsewhere = replace(FULL, machine=replace(MACHINE, name="elsewhere"))
    page = render_html(elsewhere, PRICES)
    assert "The prices of 2026-11-01 have none of elsewhere" in page
    assert "EUR" not in page
    assert "Without --prices" in render_html(FULL, None)


def test_vectors_that_are_not_those_of_torch_are_not_taken_first() -> None:
    near = replace(PARITY, min_cosine=0.9999)
    cases = [replace(c, parity=near if c.variant == "fp32" else PARITY) for c in many_cases() if c.contender != "torch"]
    (section,) = study(replace(RESULTS, cases=tuple(cases)), None).sections
    first, *_, last = choices(section)
    assert (first.row.label, last.row.label) == ("runtime fp32 on cpu", "runtime int8 on cpu")
    assert first.row.case.stage == "end_to_end"
    assert first.command(2) == f"--provider cpu --variant fp32 --batch-size {first.row.case.items} --threads 2"
    said = " ".join(summary(section, study(FULL, None)))
    assert "Fastest of those that keep 0.999: runtime fp32" in said
    assert "Faster, at a smallest cosine of 0.99712: 1.8" in said


def test_what_nobody_held_against_torch_is_not_called_faithful() -> None:
    bare = SAMPLES["bare"]
    (section,) = study(bare, None).sections
    assert "Its vectors were not held against those of torch." in summary(section, study(bare, None))
    assert {row.label for row in section.rows if row.faithful} == {"torch eager on cpu"}


def test_the_front_is_what_nothing_beats(full: Study) -> None:
    plot = throughput_plot(full.sections[0], full)
    assert plot is not None
    assert "a million, EUR" in "".join(plot.drawing.itertext())
    described = plot.drawing.findtext("desc")
    assert described is not None
    assert "runtime int8 on cpu at 1;" in described
    assert "fp32" not in described


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (replace(FULL, complete=False), "The run was ended before everything was measured"),
        (TWO_TOWERS, "Random weights in other:"),
        (replace(FULL, machine=replace(MACHINE, load_average=(1.2, 0, 0))), "a load of 1.20 on 2 cores"),
        (FULL, "6 of 24 cases unstable"),
        (SAMPLES["one round"], "1 of 1 case with fewer than 5 rounds"),
        (replace(FULL, cases=(CASE, replace(CASE, items=2, yardstick=(0.08,) * 10))), "took 50.0 to 80.0 ms"),
        (
            replace(FULL, cases=(CASE, replace(CASE, items=2, stolen=(0.0, 0.5)))),
            "more than 5 % of what 1 of 2 cases asked for, at most 25 %",
        ),
    ],
    ids=["incomplete", "random", "busy", "unstable", "few rounds", "restless", "robbed"],
)
def test_doubts_come_first(results: Results, words: str) -> None:
    assert any(words in caveat for caveat in caveats(study(results, None)))
    page = render_html(results, None)
    assert page.index(words) < page.index("At a glance")
    assert words in render_markdown(results, None)


def test_a_quiet_and_complete_run_has_no_warnings() -> None:
    assert caveats(study(RESULTS, None)) == ()
    assert "caveats" not in render_html(RESULTS, None).split("</style>")[1]


def test_instability_stands_beside_the_number() -> None:
    (noisy,) = [c for c in many_cases() if (c.label, c.stage, c.items) == ("torch bf16 on cpu", "graph", 128)]
    results = replace(RESULTS, cases=(noisy,))
    assert re.search(r"<small>\[[\d.,]+ [\d.,]+\]</small> <em>unstable</em></td>", render_html(results, None))
    assert re.search(r"\\\[[\d.,]+ [\d.,]+\\\] \*\*unstable\*\*", render_markdown(results, None))


def test_the_answers_come_in_the_order_of_the_questions() -> None:
    page = render_html(FULL, None)
    questions = ("Is it right?", "How fast is it?", "What does a million cost?", "Which settings", "Machine</h2>")
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
    assert [percent(share) for share in (0.0, 0.034, 0.5, 1.2)] == ["0 %", "3.4 %", "50 %", "120 %"]
    assert [short(tick) for tick in (0.5, 10.0, 1000.0)] == ["0.5", "10", "1,000"]
    assert (cosine(0.99712), cosine(None)) == ("0.99712", "-")
    assert cosine(1 - 3e-12) == "1\u00a0-\u00a03.0e-12"


def test_each_format_is_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    paths = write_report(FULL, folder, ["html", "md", "json"], PRICES)
    assert paths == [folder / "report.html", folder / "report.md", folder / "results.json"]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert read_results(folder) == FULL
    assert "EUR" in paths[0].read_text("utf-8")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        write_report(RESULTS, tmp_path / "file" / "report", ["md"])
