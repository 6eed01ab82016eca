"""Write the catalogue into the README; with ``--check``, exit with 1 if the README has another one."""

import sys
from pathlib import Path

from generated import write_or_check

from exporters.catalogue.tables import as_markdown

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- catalogue: made by `make format` -->", "<!-- end of catalogue -->"

text = README.read_text("utf-8")
if text.count(BEGIN) != 1 or text.count(END) != 1:
    sys.exit(f"README.md has no place for the catalogue; put {BEGIN} and {END} around it")
before, rest = text.split(BEGIN)
_, after = rest.split(END)
sys.exit(write_or_check(README, f"{before}{BEGIN}\n\n{as_markdown()}\n\n{END}{after}"))
