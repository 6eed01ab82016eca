"""Keeps the README's catalogue equal to the registry: rewrites it, or with --check exits 1 if it is stale."""

import sys
from pathlib import Path

from exporters.catalogue.tables import as_markdown

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- catalogue: made by `make format` -->", "<!-- end of catalogue -->"

text = README.read_text("utf-8")
if text.count(BEGIN) != 1 or text.count(END) != 1:
    sys.exit(f"README.md: the catalogue's place is lost; put {BEGIN} and {END} around it")
before, rest = text.split(BEGIN)
_, after = rest.split(END)
current = f"{before}{BEGIN}\n\n{as_markdown()}\n\n{END}{after}"
if "--check" not in sys.argv:
    README.write_text(current, "utf-8")
elif current != text:
    sys.exit("README.md: the catalogue is not what the registry says; run `make format`")
