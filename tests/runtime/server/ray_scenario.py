"""Serve a toy artifact with Ray Serve, kill a replica under load, and print what became of the requests as JSON.

Usage: ``python -m tests.runtime.server.ray_scenario ARTIFACT``.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import ray
from ray import serve

import runtime
from runtime.server.ray_serve import app
from tests.ports import free_port

CLIENTS, SECONDS, KILL_AFTER_S = 16, 12.0, 4.0
TEXTS = ["a", "b c", "a b c d", "d d d"]
APPLICATION = "embed"


def replicas() -> list[int]:
    """Return the process ids of the replicas of this cluster."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::ServeReplica"):
                found.append(child.pid)
        except psutil.Error:
            continue
    return found


class Load:
    """Clients that ask again until they have an answer."""

    def __init__(self, url: str, expected: dict[str, list[float]]) -> None:
        self.url, self.expected, self.counts, self.lock = url, expected, Counter[str](), threading.Lock()
        self.end = time.monotonic() + SECONDS

    def count(self, name: str) -> None:
        with self.lock:
            self.counts[name] += 1

    def be_client(self, seed: int) -> None:
        random_text = random.Random(seed)  # noqa: S311
        with httpx2.Client(trust_env=False, timeout=30) as client:
            while time.monotonic() < self.end:
                texts = random_text.choices(TEXTS, k=random_text.randint(1, 8))
                self.count("answered" if self.ask(client, texts) else "lost")

    def ask(self, client: httpx2.Client, texts: list[str]) -> bool:
        for _ in range(100):
            try:
                response = client.post(f"{self.url}/v1/embeddings", json={"input": texts})
            except httpx2.TransportError:
                self.count("asked again: no connection")
            else:
                if response.status_code == 200:
                    vectors = [each["embedding"] for each in response.json()["data"]]
                    if vectors != [self.expected[text] for text in texts]:
                        self.count("wrong")
                    return True
                self.count(f"asked again: {response.status_code}")
            time.sleep(0.1)
        return False


def run(artifact: Path) -> dict[str, Any]:
    model = runtime.load(artifact)
    expected = {text: model.embed([text])[0].tolist() for text in TEXTS}
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(address="local", num_cpus=4, object_store_memory=100 * 2**20, **options)
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    reserved = {"num_replicas": 2, "ray_actor_options": {"memory": 2**31}}
    application = app({"artifacts": {"toy": str(artifact)}, "options": reserved})
    serve.run(application, name=APPLICATION, route_prefix="/toy")
    load, before = Load(f"http://127.0.0.1:{port}/toy", expected), replicas()
    refused = httpx2.post(f"{load.url}/v1/embeddings", json={"input": ["a"] * 5000}, trust_env=False)
    with ThreadPoolExecutor(CLIENTS) as executor:
        clients = [executor.submit(load.be_client, seed) for seed in range(CLIENTS)]
        time.sleep(KILL_AFTER_S)
        os.kill(before[0], 9)
        for client in clients:
            client.result()
    deadline = time.monotonic() + 60
    while len(replicas()) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    outcome = {
        "counts": load.counts,
        "refused": [refused.status_code, refused.json()["error"]["code"]],
        "killed": before[0],
        "before": before,
        "after": replicas(),
    }
    serve.shutdown()
    ray.shutdown()
    return outcome


if __name__ == "__main__":
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}
    os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "50"  # Ray kills a proxy that needs longer than 5 s to start
    print(json.dumps(run(Path(sys.argv[1]))))
