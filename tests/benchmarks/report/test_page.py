"""Test that the report shows the results, escapes hostile names and loads nothing from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from benchmarks.report.analysis import analyze
from benchmarks.report.caveats import caveats
from benchmarks.results.prices import Prices
from benchmarks.results.schema import PythonEnvironment, Results
from tests.benchmarks.report.reading import check_page, drawings, read
from tests.benchmarks.report.samples import FULL, PRICES, SAMPLES, TWO_TOWERS, html_of, markdown_of, nasty
from tests.benchmarks.samples import ARTIFACT, CASE, MACHINE, RESULTS, many_cases


@pytest.mark.parametrize("prices", [None, PRICES], ids=["unpriced", "priced"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_every_kind_of_results_gives_a_valid_page(sample: str, prices: Prices | None) -> None:
    check_page(html_of(SAMPLES[sample], prices))
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


def test_hostile_names_are_escaped_in_the_page() -> None:
    page = html_of(nasty(), None)
    reader = read(page)
    assert "script" not in reader.tags
    assert all(address.startswith("#") for address in reader.addresses)
    assert page.count("&lt;script&gt;") > 10
    assert not re.search(r"[\x00\udcff]", page)
    page.encode("utf-8")


def test_the_page_names_setups_without_a_roofline() -> None:
    assert "No roofline for torch bf16 on cpu: no peak rate of bf16 was measured on cpu." in html_of(FULL, None)


def test_the_software_of_other_environments_is_shown() -> None:
    environment = PythonEnvironment(python="3.12.1", packages={"openvino": "2026.1"})
    results = replace(RESULTS, environments={"openvino": environment})
    for page in (html_of(results, None), markdown_of(results, None)):
        assert "openvino 2026.1" in page
    assert "Environments of" not in html_of(RESULTS, None)


def test_stages_that_were_not_measured_have_no_heading() -> None:
    page = html_of(SAMPLES["one case"], None)
    assert "Graph only" not in page
    assert "Share of the roofline" not in page


def test_without_a_price_there_is_no_cost() -> None:
    elsewhere = replace(FULL, machine=replace(MACHINE, name="elsewhere"))
    page = html_of(elsewhere, PRICES)
    assert "The price file of 2026-11-01 has no price for elsewhere" in page
    assert "EUR" not in page
    assert "Without --prices" in html_of(FULL, None)


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (replace(FULL, complete=False), "The run stopped before everything was measured"),
        (TWO_TOWERS, "Random weights in other: vectors have no meaning, but times are valid"),
        (
            replace(RESULTS, artifacts=(replace(ARTIFACT, random=True),)),
            "So times of texts end to end with toy-text can be those of longer texts.",
        ),
        (replace(FULL, machine=replace(MACHINE, load_average=(1.2, 0, 0))), "a load average of 1.20 on 2 cores"),
        (FULL, "Unstable times in 6 of 24 cases"),
        (SAMPLES["one round"], "Fewer than 5 rounds in 1 of 1 case"),
        (replace(FULL, cases=(CASE, replace(CASE, items=2, yardstick=(0.08,) * 10))), "took 50.0 to 80.0 ms"),
        (
            replace(FULL, cases=(CASE, replace(CASE, items=2, stolen=(0.0, 0.5)))),
            "more than 5% in 1 of 2 cases, and up to 25%",
        ),
    ],
    ids=["incomplete", "random", "random texts", "busy", "unstable", "few rounds", "restless", "robbed"],
)
def test_warnings_come_first(results: Results, words: str) -> None:
    assert any(words in caveat for caveat in caveats(analyze(results, None)))
    page = html_of(results, None)
    assert page.index(words) < page.index("At a glance")
    assert words in markdown_of(results, None)


def test_the_unstable_mark_follows_the_number_that_is_judged() -> None:
    (noisy,) = [c for c in many_cases() if (c.label, c.stage, c.items) == ("torch bf16 on cpu", "graph", 128)]
    results = replace(RESULTS, cases=(noisy,))
    assert re.search(r"<small>\[[\d.,]+ [\d.,]+\]</small> <em>unstable</em></td>", html_of(results, None))
    assert re.search(r"\\\[[\d.,]+ [\d.,]+\\\] \*\*unstable\*\*", markdown_of(results, None))
    uneven = replace(CASE, rounds=((0.01, 0.01, 0.01), (0.01, 0.01, 0.04)) * 5)
    page = markdown_of(replace(RESULTS, cases=(uneven,)), None)
    assert "| 10.0 \\[10.0, 10.0\\] | 40.0 | - | 30 | 15.0 **unstable** |" in page


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
