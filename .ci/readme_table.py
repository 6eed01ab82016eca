"""Keeps the README's catalogue equal to the registry: rewrites it, or with --check exits 1 if it is stale."""

import sys
from pathlib import Path

from exporters.catalogue import as_markdown

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- catalogue: made by `make format` -->\n", "<!-- end of catalogue -->"

text = README.read_text("utf-8")
before, _, rest = text.partition(BEGIN)
_, _, after = rest.partition(END)
current = f"{before}{BEGIN}\n{as_markdown()}\n\n{END}{after}"
if current != text and "--check" in sys.argv:
    sys.exit("README.md: the catalogue is not what the registry says; run `make format`")
README.write_text(current, "utf-8")
