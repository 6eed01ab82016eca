"""``python -m exporters``."""

import sys

from exporters.cli.main import main
from runtime.early_interrupt import restore

if __name__ == "__main__":
    restore()
    sys.exit(main())
