from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.array_types import Float32Array
from runtime.inference.batching import BatchLimit
from runtime.preprocess.text import Tokens
from runtime.server.waiting_queue import BatchRunner, Job, WaitingItem, WaitingQueue


def tokens(length: int) -> Tokens:
    return Tokens(ids=[length] * length, truncated=False, type_ids=[], prompt_length=0, width=length)


def make_runner(budget: int = 100, padding: int = 16, **limit: Any) -> BatchRunner:
    def embed(rows: Sequence[Any], *, side_by_side: bool) -> Float32Array:
        return np.zeros((len(rows), 1), np.float32)

    return BatchRunner(embed=embed, limit=lambda: BatchLimit(budget=budget, padding=padding, **limit), dim=1)


def fill(queue: WaitingQueue, rows: Sequence[Any], runner: BatchRunner | None = None) -> list[WaitingItem]:
    job = Job(runner or make_runner(), rows, 0.0)
    queue.add(job.items)
    return job.items


def costs(batch: Sequence[WaitingItem]) -> list[int]:
    return [item.cost for item in batch]


def test_a_batch_is_the_first_item_and_those_nearest_to_it_in_length() -> None:
    queue = WaitingQueue()
    fill(queue, [tokens(length) for length in (20, 90, 21, 3, 19, 20, 80)])
    assert sorted(costs(queue.take(1))) == [19, 20, 20, 21]
    assert costs(queue.take(1)) == [90]
    assert costs(queue.take(1)) == [3]
    assert costs(queue.take(1)) == [80]
    assert not queue
    assert queue.tokens == 0


def test_short_requests_pass_a_large_one_which_keeps_its_share() -> None:
    queue, runner = WaitingQueue(), make_runner()
    large = Job(runner, [tokens(50)] * 6, 0.0).items
    queue.add(large)
    assert queue.take(1) == large[:2]
    short = [Job(runner, [tokens(50)], 0.0).items[0] for _ in range(8)]
    for item in short:
        queue.add([item])
    assert [item for _ in range(4) for item in queue.take(1)] == short
    taken = []
    for _ in range(12):
        for _ in range(2):
            queue.add(Job(runner, [tokens(50)], 0.0).items)
        taken += queue.take(1)
    assert [item for item in taken if item in large] == large[2:]


def test_items_of_one_length_are_taken_in_their_order() -> None:
    queue = WaitingQueue()
    items = fill(queue, [tokens(30)] * 5)
    assert queue.take(1) == items[:3]
    assert queue.take(1) == items[3:]


def test_idle_threads_share_what_waits() -> None:
    queue = WaitingQueue()
    fill(queue, [tokens(10)] * 8)
    assert [len(queue.take(idle)) for idle in (4, 3, 2, 1)] == [2, 2, 2, 2]


def test_batches_have_few_sizes_where_each_new_shape_costs_time() -> None:
    queue = WaitingQueue()
    fill(queue, [tokens(10)] * 21, make_runner(powers_of_two=True))
    assert [len(queue.take(1)) for _ in range(4)] == [8, 8, 4, 1]
    fill(queue, [tokens(1)] * 7, make_runner(items=4))
    assert [len(queue.take(1)) for _ in range(2)] == [4, 3]


def test_a_batch_is_full_by_its_tokens_or_by_its_items() -> None:
    for length, enough in ((50, 2), (1, 4)):
        queue, runner = WaitingQueue(), make_runner(items=4)
        for count in range(1, enough + 1):
            fill(queue, [tokens(length)], runner)
            assert queue.is_full_batch() is (count == enough)
        queue.take(1)
        fill(queue, [tokens(length)], runner)
        assert not queue.is_full_batch()


def test_an_item_above_the_budget_is_a_batch_of_its_own() -> None:
    queue = WaitingQueue()
    fill(queue, [tokens(500), tokens(499)])
    assert costs(queue.take(1)) == [500]


def test_only_rows_of_one_graph_and_one_shape_share_a_batch() -> None:
    queue, other = WaitingQueue(), make_runner()
    fill(queue, [np.zeros((4, 3)), np.zeros((5, 3)), np.zeros((4, 3))])
    fill(queue, [np.zeros((4, 3))], other)
    assert [costs(queue.take(1)) for _ in range(3)] == [[4, 4], [4], [5]]


def test_removed_items_are_not_taken() -> None:
    queue = WaitingQueue()
    gone, kept = fill(queue, [tokens(5)] * 3), fill(queue, [tokens(6)])
    queue.remove(gone)
    queue.remove(gone)  # the second time does nothing
    assert queue.take(1) == kept


def test_no_item_starves_and_none_is_taken_twice() -> None:
    queue, chosen = WaitingQueue(), random.Random(0)  # noqa: S311  a reproducible choice
    taken: list[WaitingItem] = []
    for _ in range(200):
        fill(queue, [tokens(chosen.choice([1, 5, 20, 60, 99])) for _ in range(chosen.randint(1, 6))])
        first = queue.first
        batch = queue.take(chosen.randint(1, 3))
        assert batch[0] is first
        assert len(batch) == 1 or len(batch) * max(costs(batch)) <= 100
        taken += batch
    while queue:
        taken += queue.take(1)
    assert len(taken) == len(set(taken))
    assert queue._groups == {}
