"""Fuzzes one target by atheris: ``python -m tests.fuzz.run_atheris TARGET [--shallow] [libFuzzer's flags]``.

libFuzzer's flags are said as its own manual has them: ``-max_total_time=60``, ``-runs=1000``. ``--shallow`` instruments
our own code alone, which starts in a second instead of half a minute. An input that breaks a target is kept as
``crash-*`` in the folder where this was called.

Source: https://github.com/google/atheris, https://llvm.org/docs/LibFuzzer.html
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.fuzz.mutations import mutate_glb, mutate_json

NAMES = ("manifest", "sealed", "image", "text", "array", "obj", "off", "ply", "stl", "glb")
LIMITS = ("-rss_limit_mb=2048", "-timeout=20", "-max_len=16384", "-print_final_stats=1")
_OURS = ["runtime"]
_READERS = ["PIL", "trimesh.exchange", "trimesh.scene", "trimesh.resources", "trimesh.triangles", "ftfy"]
_SCRATCH = "FUZZ_SCRATCH"


def main(arguments: Sequence[str]) -> int:
    """Fuzzes in a process of its own, which libFuzzer ends without cleaning up; returns its exit code."""
    if not arguments or arguments[0] not in NAMES:
        print(f"usage: python -m tests.fuzz.run_atheris {{{','.join(NAMES)}}} [--shallow] [libFuzzer's flags]")
        return 2
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        command = [sys.executable, "-m", "tests.fuzz.run_atheris", *arguments]
        environment = os.environ | {_SCRATCH: scratch, "TMPDIR": scratch}
        return subprocess.run(command, env=environment, check=False).returncode


def fuzz(arguments: Sequence[str], scratch: Path) -> None:
    """Fuzzes in this process, with its seeds and files in ``scratch``; does not return."""
    import atheris

    name, flags = arguments[0], [each for each in arguments[1:] if each != "--shallow"]
    with atheris.instrument_imports(include=_OURS if "--shallow" in arguments else _OURS + _READERS):
        from tests.fuzz.seeds import seeds_of
        from tests.fuzz.targets import Targets

        corpus = scratch / "corpus"
        corpus.mkdir()
        target = Targets(scratch).by_name[name]
        for index, seed in enumerate(seeds_of(name).values()):
            (corpus / f"seed-{index}").write_bytes(seed)
            target(seed)  # here, so that what is imported on the first use is instrumented too
    mutate = {"sealed": mutate_json, "manifest": mutate_json, "glb": mutate_glb}.get(name)

    def mutate_half(data: bytes, max_size: int, seed: int) -> bytes:
        """By structure one time in two; bytes alone would seldom give a document."""
        random = Random(seed)
        if mutate is None or random.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        return mutate(data, random)[:max_size]

    atheris.Setup([sys.argv[0], *LIMITS, *flags, str(corpus)], target, custom_mutator=mutate_half)
    atheris.Fuzz()


if __name__ == "__main__":
    if _SCRATCH in os.environ:
        fuzz(sys.argv[1:], Path(os.environ[_SCRATCH]))
    else:
        sys.exit(main(sys.argv[1:]))
