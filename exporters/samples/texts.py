"""Texts for the parity check of text backbones and for their golden vectors.

They are written for this project. They include an empty text, a text longer than any model takes, several scripts, and
strings that tokenizers often handle wrongly.
"""

from __future__ import annotations

TEXTS = (
    "A cup of coffee on a wooden table.",
    "Someone has left an espresso on the wooden table in the kitchen, and by now it must be as cold as the morning.",
    "The rocket left the launch pad at 23:03 UTC; its first stage came back eight minutes later.",
    "Motorcycle",
    "Eine Katze schläft auf dem Sofa, während draußen der Regen an die Fensterscheiben trommelt.",
    "東京の夜景は、高い塔の上から見るといちばん美しい。",
    "القطة نائمة على الأريكة والمطر يهطل في الخارج",
    "naïve café 👩‍🚀🚀 — e\u0301 is not é, ﬁnd [SEP] </s> <pad> &amp; C:\\temp\t\tx=1",
    "",
    "The quick brown fox jumps over the lazy dog, and then it does so again, because nobody was looking. " * 60,
)
