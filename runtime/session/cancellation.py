"""End runs of a session early, from another thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime


class CancellationToken:
    """A token that ends runs of a session early, so that Ctrl-C takes effect during a large batch."""

    def __init__(self) -> None:
        """Make a token that is not cancelled."""
        self._cancelled = False
        self._all: dict[str, onnxruntime.RunOptions] = {}  # by the arena to shrink
        self.run_options = self._make_run_options("")

    @property
    def is_cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancelled

    def shrinking_run_options(self, arena: str) -> onnxruntime.RunOptions:
        """Return options of a run after which ``arena``, such as ``gpu:0``, gives unused memory back.

        Source: https://onnxruntime.ai/docs/get-started/with-c.html, memory.enable_memory_arena_shrinkage
        """
        return self._all.get(arena) or self._make_run_options(arena)

    def _make_run_options(self, arena: str) -> onnxruntime.RunOptions:
        import onnxruntime  # the session checked the packages, which takes milliseconds

        run_options = onnxruntime.RunOptions()
        if arena:
            run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)
        run_options = self._all.setdefault(arena, run_options)  # another thread may have made it first
        if self._cancelled:  # another thread may have cancelled since; assigning False could undo a later cancel
            run_options.terminate = True
        return run_options

    def cancel(self) -> None:
        """End the current run, and every later one."""
        self._cancelled = True
        for run_options in list(self._all.values()):
            run_options.terminate = True
