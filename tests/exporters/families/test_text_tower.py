"""The tokenizer of an artifact is that of the model, or the export is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from torch import nn

from exporters.errors import WeightsError
from exporters.families.text_tower import count_positions
from tests.exporters.families.test_sentence import load
from tests.exporters.toys import save_toy


def test_a_setting_that_a_tokenizers_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    folder = save_toy(tmp_path / "toy")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split_special_tokens": True}))
    with pytest.raises(WeightsError, match=r"\(split_special_tokens\).*remove the setting from tokenizer_config\.json"):
        load(folder)


@pytest.mark.parametrize(("padding", "tokens"), [(None, 514), (1, 512)])
def test_positions_begin_behind_the_padding(padding: int | None, tokens: int) -> None:
    table = nn.Embedding(514, 2, padding_idx=padding)
    assert count_positions(nn.ModuleDict({"position_embeddings": table})) == tokens


def test_a_tokenizers_file_does_not_hold_how_special_tokens_are_read(tmp_path: Path) -> None:
    """If this fails, the library has learned it, and the export may keep the setting."""
    tokenizer = Tokenizer.from_file(str(save_toy(tmp_path / "toy") / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    assert not Tokenizer.from_str(tokenizer.to_str()).encode_special_tokens
