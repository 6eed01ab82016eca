"""``python -m exporters``."""

import sys

from exporters.cli import main

if __name__ == "__main__":
    sys.exit(main())
