from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import UsageError
from tests.paths import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.tried]
pytest.importorskip("ray.serve", reason="needs ray[serve]", exc_type=ImportError)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_wrong_arguments_are_refused(toy: Path) -> None:
    from runtime.server.ray_serve import app

    with pytest.raises(UsageError, match=r"^artifact has no effect here; known are artifacts"):
        app({"artifact": str(toy)})
    with pytest.raises(UsageError, match="artifacts must be"):
        app({"threads": 2})
    with pytest.raises(UsageError, match="max_items"):
        app({"artifacts": str(toy), "settings": {"max_items": 0}})
    for settings in ({"port": 9000}, {"drain_seconds": 9}, {"max_itens": 3}):
        with pytest.raises(UsageError, match=f"settings: {min(settings)} has no effect here; known are truncate"):
            app({"artifacts": str(toy), "settings": settings})
    for session in ({"varaint": "int8"}, {"threads": 8}, {"workers": 2}):
        with pytest.raises(UsageError, match=f"session: {min(session)} has no effect here; known are provider"):
            app({"artifacts": str(toy), "session": session})
    for options in ({"num_replica": 2}, {"num_replicas": -1}):
        with pytest.raises(UsageError, match=f"options: (.|\n)*{min(options)}"):
            app({"artifacts": str(toy), "options": options})
    with pytest.raises(UsageError, match="num_cpus is 4, and threads is 1; set threads"):
        app({"artifacts": str(toy), "options": {"ray_actor_options": {"num_cpus": 4}}})


@pytest.mark.filterwarnings("ignore")
def test_options_are_those_of_ray(toy: Path) -> None:
    from runtime.server.ray_serve import app

    options = {
        "autoscaling_config": {"min_replicas": 2, "max_replicas": 5},
        "ray_actor_options": {"num_gpus": 0.5, "memory": 2**30},
    }
    deployment = app({"artifacts": str(toy), "threads": 3, "options": options})._bound_deployment
    assert deployment.max_ongoing_requests == 10_000
    assert deployment.ray_actor_options == {"num_cpus": 3, "num_gpus": 0.5, "memory": 2**30}


def test_a_killed_replica_loses_nothing_that_clients_ask_again(toy: Path) -> None:
    command = [sys.executable, "-m", "tests.runtime.server.ray_scenario", str(toy)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    counts = outcome["counts"]
    assert counts["answered"] > 100
    assert not {"lost", "wrong"} & set(counts)
    # Only requests that were in flight at the killed replica failed, at most one for each client, and were asked again.
    again = sum(number for name, number in counts.items() if name.startswith("asked again"))
    assert again <= 16, counts
    assert outcome["refused"] == [413, "too_large"]
    assert outcome["killed"] not in outcome["after"]
    assert len(outcome["before"]) == len(outcome["after"]) == 2
