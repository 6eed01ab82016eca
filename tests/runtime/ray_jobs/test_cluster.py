from __future__ import annotations

import contextlib
import socket
import sys
import threading
from typing import TextIO, cast

import pytest

from runtime.errors import ClusterError, MissingDependencyError, UsageError
from runtime.ray_jobs.cluster import (
    RAY_THREAD,
    ClusterOptions,
    QuietStdout,
    WorkerResources,
    assign_resources,
    check_address,
    import_ray,
    open_cluster,
    watch_head,
)

CPU_NODES, GPU_NODES = [(2, 0), (16, 0)], [(4, 0), (32, 4)]


def options(workers: int | None, threads: int | None, provider: str = "cpu") -> ClusterOptions:
    return ClusterOptions(workers=workers, threads=threads, provider=provider)


@pytest.mark.parametrize(
    ("asked", "nodes", "share"),
    [
        (options(None, None), CPU_NODES, (9, 2, 0)),
        (options(None, 4), CPU_NODES, (4, 4, 0)),
        (options(3, None), [(16, 0)], (3, 5, 0)),
        (options(3, None, "auto"), [(16, 0)], (3, 5, 0)),
        (options(3, None), CPU_NODES, (3, 5, 0)),
        (options(4, None), [(3, 0), (5, 0)], (4, 1, 0)),
        (options(18, 1), CPU_NODES, (18, 1, 0)),
        (options(None, None, "auto"), GPU_NODES, (4, 4, 1)),
        (options(None, 16, "cuda"), GPU_NODES, (2, 16, 1)),
        (options(None, None, "tensorrt"), GPU_NODES, (4, 4, 1)),
        (options(None, None, "openvino"), GPU_NODES, (9, 4, 0)),
        (options(None, None, "cpu"), [(1, 0)], (1, 1, 0)),
    ],
)
def test_workers_share_what_there_is(
    asked: ClusterOptions, nodes: list[tuple[int, int]], share: tuple[int, int, int]
) -> None:
    workers, threads, gpus = share
    assert assign_resources(asked, nodes) == WorkerResources(workers=workers, threads=threads, gpus=gpus)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (options(5, 4), "5 workers of 4 threads each do not fit: the cluster has room for 4"),
        (options(None, 17), "1 workers of 17 threads each do not fit: the cluster has room for 0"),
        (options(1, None, "cuda"), "none of the cluster's 2 machines has a GPU for a worker; use --provider cpu"),
        (options(1, None, "tensorrt"), "none of the cluster's 2 machines has a GPU for a worker"),
    ],
)
def test_too_much_is_refused_where_ray_would_wait_for_ever(asked: ClusterOptions, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        assign_resources(asked, CPU_NODES)


def test_a_number_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="workers is 0"):
        options(0, None)


def test_an_address_where_nothing_answers_is_refused_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(ClusterError, match=r"no Ray cluster answers at 127.* with --address local"):
            check_address(f"127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(UsageError, match="is Ray Client's"):
        check_address("ray://127.0.0.1:10001")


def test_a_head_that_is_lost_is_named_before_ray_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("runtime.ray_jobs.cluster._SECONDS_BETWEEN_CHECKS", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with watch_head(address):
        for thread in threading.enumerate():
            if thread.name == "watch_head":
                thread.join(60)
    assert caplog.messages == [
        f"the head of the Ray cluster, {address}, does not answer; if that lasts a minute, Ray ends this job without a "
        "message: start both again"
    ]


def test_a_cluster_that_does_not_start_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**arguments: object) -> None:
        raise Exception("The current node timed out during startup")

    monkeypatch.setattr("ray.init", init)
    with (
        pytest.raises(ClusterError, match=r"'local' cannot be started \(The current node timed out .*see its logs in"),
        open_cluster(options(1, 1)),
    ):
        pass


def test_without_ray_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'embedding-backbones\[ray\]'"):
        import_ray()


def test_what_rays_thread_prints_does_not_reach_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.redirect_stdout(cast("TextIO", QuietStdout(sys.stdout))):
        threads = [threading.Thread(target=print, args=("ray",), name=RAY_THREAD)]
        threads.append(threading.Thread(target=print, args=("ours",)))
        for thread in threads:
            thread.start()
            thread.join()
    assert capsys.readouterr().out == "ours\n"
