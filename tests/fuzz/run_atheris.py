"""Fuzz targets with atheris: ``python -m tests.fuzz.run_atheris TARGET... [--shallow] [libFuzzer flags]``.

``all`` means all targets, one after another. The flags of libFuzzer apply to each target, for example
``-max_total_time=60`` or ``-runs=1000``. ``--shallow`` instruments only our own code and starts in a second instead of
ten. An input that breaks a target is saved as ``crash-*`` in the current folder.

Source: https://github.com/google/atheris, https://llvm.org/docs/LibFuzzer.html
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from tests.fuzz.mutations import mutate_glb, mutate_json

NAMES = ("manifest", "sealed", "image", "text", "array", "obj", "off", "ply", "stl", "glb", "gltf")
_LIMITS = ("-rss_limit_mb=2048", "-timeout=20", "-max_len=16384", "-print_final_stats=1")
_OURS = ["runtime"]
_READERS = ["PIL", "ftfy"]
_BY_STRUCTURE = {"sealed": mutate_json, "manifest": mutate_json, "glb": mutate_glb}
_SCRATCH = "FUZZ_SCRATCH"


def main(arguments: Sequence[str]) -> int:
    """Fuzz in other processes, because libFuzzer ends them without cleanup, and return the exit code."""
    wanted = [each for each in arguments if not each.startswith("-")]
    unknown = set(wanted) - {*NAMES, "all"}
    if unknown or not wanted:
        sys.stderr.write(f"targets are {', '.join(NAMES)} and all, not {', '.join(sorted(unknown)) or 'none'}\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        command = [sys.executable, "-m", "tests.fuzz.run_atheris", *arguments]
        environment = os.environ | {_SCRATCH: scratch, "TMPDIR": scratch}
        return subprocess.run(command, env=environment, check=False).returncode


def fuzz(arguments: Sequence[str], scratch: Path) -> int:
    """Fuzz each target in a fork of this process, with seeds and files in ``scratch``.

    Returns:
        0, or the exit code of the last target that failed.
    """
    import atheris

    wanted = [each for each in arguments if not each.startswith("-")]
    flags = [each for each in arguments if each.startswith("-") and each != "--shallow"]
    with atheris.instrument_imports(include=_OURS if "--shallow" in arguments else _OURS + _READERS):
        from tests.fuzz.seeds import seeds_of
        from tests.fuzz.targets import Targets

        targets = Targets(scratch).by_name
        for name in NAMES if "all" in wanted else wanted:
            corpus = scratch / "corpus" / name
            corpus.mkdir(parents=True)
            for index, seed in enumerate(seeds_of(name).values()):
                (corpus / str(index)).write_bytes(seed)
                targets[name](seed)  # so that imports on first use are instrumented too
    code = 0
    for corpus in sorted((scratch / "corpus").iterdir()):
        sys.stderr.write(f"=== {corpus.name}\n")
        sys.stderr.flush()
        child = os.fork()
        if not child:
            _fuzz_one(targets[corpus.name], corpus, flags)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or code
    return code


def _fuzz_one(target: Callable[[bytes], None], corpus: Path, flags: Sequence[str]) -> None:
    """Fuzz one target. The function does not return: libFuzzer ends the process."""
    import atheris

    by_structure = _BY_STRUCTURE.get(corpus.name)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)  # noqa: S311  a run must be repeatable
        if by_structure is None or random.random() < 0.5:  # mutated bytes are seldom a valid document
            return bytes(atheris.Mutate(data, max_size))
        return by_structure(data, random)[:max_size]

    atheris.Setup([sys.argv[0], *_LIMITS, *flags, str(corpus)], target, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    if _SCRATCH in os.environ:
        sys.exit(fuzz(sys.argv[1:], Path(os.environ[_SCRATCH])))
    sys.exit(main(sys.argv[1:]))
