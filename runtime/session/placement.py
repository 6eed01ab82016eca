"""Count the nodes of a graph that run on a provider, and the copies between it and the CPU, from a profile.

ONNX Runtime gives nodes without a kernel of the provider to the CPU, and only logs it. Each change of device in the
middle of a graph is a copy that the device waits for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_KERNEL = "_kernel_time"  # end of an event's name, after that of the node
_COPIES = frozenset({"MemcpyFromHost", "MemcpyToHost"})


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the nodes of a graph ran for one batch."""

    provider: str
    nodes: int  # number of nodes, copies not included; nodes in a loop count once
    on_cpu: Mapping[str, int]  # number of nodes that ran on the CPU, by operator; empty for the provider ``cpu``
    copies: int  # copies between the provider and the CPU in one run, inputs and output not included

    def __str__(self) -> str:
        """Return the numbers in one line."""
        fallen = sum(self.on_cpu.values())
        line = f"{self.nodes - fallen} of {self.nodes} nodes on {self.provider}, {self.copies} copies in each batch"
        listed = ", ".join(f"{count} {name}" for name, count in sorted(self.on_cpu.items()))
        return f"{line}; on the CPU: {listed}" if listed else line


def count_placement(events: Iterable[Mapping[str, Any]], provider: str) -> Placement:
    """Return the placement that the events of ONNX Runtime's profile of one run tell.

    Source: https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
    """
    runs = [event for event in events if event.get("cat") == "Node" and str(event.get("name", "")).endswith(_KERNEL)]
    nodes = {event["name"]: event["args"] for event in runs if event["args"]["op_name"] not in _COPIES}
    fallen = [node["op_name"] for node in nodes.values() if node["provider"] == "CPUExecutionProvider"]
    return Placement(
        provider=provider,
        nodes=len(nodes),
        on_cpu=dict(Counter(fallen)) if provider != "cpu" else {},
        copies=sum(event["args"]["op_name"] in _COPIES for event in runs),
    )
