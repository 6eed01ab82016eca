"""Options of variants that do not fit each other are refused by name."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from benchmarks.contenders.runtime import PRECISIONS
from exporters.variants.options import RULES, VariantOptions, variant_of
from exporters.variants.recipes import RECIPES
from runtime.artifact.variants import VARIANT_NAMES, Precision
from runtime.errors import UsageError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "entropy"}, "only int8 takes --method; add it to --precision, or leave --method out"),
        ({"method": "minmax", "precisions": ["fp16"]}, "only int8 takes --method"),
        ({"level": "none"}, "the level of a variant is 'none', it must be one of basic, extended, all"),
        ({"accept_batch_dependent": True, "precisions": ["fp16"]}, "only int8 takes --accept-batch-dependent"),
        (
            {"method": "entropy", "accept_batch_dependent": True, "precisions": ["int8"]},
            "takes the ranges from each batch; leave --method out",
        ),
        (
            {"level": "basic", "precisions": ["fp32", "compact"]},
            "--level basic has only ONNX operators, and compact needs",
        ),
        ({"level": "all", "precisions": ["fp32", "fp16", "int8"]}, "--level all is for fp32 alone; make fp16, int8 by"),
    ],
)
def test_an_option_without_effect_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        VariantOptions(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "entropy", "precisions": ["fp32", "int8"]},
        {"accept_batch_dependent": True, "precisions": ["int8"]},
        {"level": "basic", "precisions": ["fp32", "fp16", "int8"]},
        {"level": "all"},
    ],
)
def test_an_option_with_an_effect_is_taken(options: dict[str, Any]) -> None:
    assert VariantOptions(**options)


def test_every_precision_has_its_rules_its_recipe_and_its_arithmetic() -> None:
    precisions = get_args(Precision)
    assert (*RULES,) == (*RECIPES,) == precisions
    assert (*PRECISIONS,) == VARIANT_NAMES == ("fp32", *map(variant_of, precisions))
