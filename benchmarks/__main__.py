"""Run ``python -m benchmarks``."""

import sys

try:
    from benchmarks.cli import main
except ModuleNotFoundError as exc:
    sys.exit(f"error: {sys.executable} has no {exc.name}; install it in the clone with `pip install '.[bench,cpu]'`")

if __name__ == "__main__":
    sys.exit(main())
