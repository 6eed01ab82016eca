"""Build texts of random words from a tokenizer's vocabulary, so that calibration covers the whole vocabulary.

A few words give a transformer its largest activations. The words differ from model to model.
"""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

_LENGTHS = (1, 2, 4, 8, 16, 32)
_END_OF_WORD = "</w>"  # CLIP's tokenizers leave it in decoded text


def random_texts(tokenizer: Path, count: int) -> list[str]:
    """Return ``count`` texts of 1 to 32 words from the file ``tokenizer.json``, always the same.

    The list is empty if no token of the vocabulary is a word.
    """
    loaded = Tokenizer.from_file(str(tokenizer))
    decoded = (loaded.decode([token]) for token in range(loaded.get_vocab_size()))
    words = np.array([word for text in decoded if (word := text.removesuffix(_END_OF_WORD).strip()).isalpha()])
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, size)) for size in islice(cycle(_LENGTHS), count)] if len(words) else []
