"""Results of every kind, and their pages."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.report.analysis import analyze
from benchmarks.report.html import render_html
from benchmarks.report.markdown import render_markdown
from benchmarks.results.prices import MachinePrice, Prices
from benchmarks.results.schema import Results, Skipped, Work, Worst
from tests.benchmarks.samples import ARTIFACT, CASE, MACHINE, NOT_WITH_TORCH, PARITY, RESULTS, many_cases, timed

NASTY = "<script>alert('x')</script> & \"q\" | `tick` [a](http://b) \x00\udcff\u2028 *b*"
PRICES = Prices(
    date="2026-11-01", currency="EUR", machines={MACHINE.name: MachinePrice(per_hour=0.36, source="an offer")}
)


def html_of(results: Results, prices: Prices | None) -> str:
    return render_html(analyze(results, prices))


def markdown_of(results: Results, prices: Prices | None) -> str:
    return render_markdown(analyze(results, prices))


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
    "bare": replace(
        FULL, cases=tuple(replace(case, parity=NOT_WITH_TORCH, work=None, stages={}) for case in FULL.cases)
    ),
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
