"""Which item is next: fair among clients, first in first out within one, and nobody starved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.fair_queue import FairQueue


class Waiter:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


def served(queue: FairQueue[Waiter], most: int = 10_000) -> list[str]:
    """Names in the order in which they are served."""
    order = []
    while (head := queue.peek()) is not None and len(order) < most:
        queue.served(head)
        order.append(head.name)
    return order


def test_one_client_is_served_in_the_order_of_arrival():
    queue: FairQueue[Waiter] = FairQueue()
    for n in range(5):
        queue.add("a", Waiter(f"a{n}"))
    assert served(queue) == ["a0", "a1", "a2", "a3", "a4"]


def test_a_flood_of_one_client_waits_behind_itself():
    queue: FairQueue[Waiter] = FairQueue()
    for _ in range(100):
        queue.add("flood", Waiter("flood"))
    queue.add("b", Waiter("b"))
    queue.add("c", Waiter("c"))
    # Given tags 1, 2, 3… for the flood's and 1 for b and c, I expect both among the first three.
    assert set(served(queue)[:3]) == {"flood", "b", "c"}


def test_weights_share_in_proportion():
    queue: FairQueue[Waiter] = FairQueue()
    for _ in range(90):
        queue.add("heavy", Waiter("heavy"), weight=2.0)
        queue.add("light", Waiter("light"), weight=1.0)
    first = served(queue)[:90]
    # Twice the weight, twice the turns: 60 and 30 of 90, give or take the one at the edge.
    assert abs(first.count("heavy") - 60) <= 1


def test_cost_counts_against_the_share():
    queue: FairQueue[Waiter] = FairQueue()
    for _ in range(40):
        queue.add("large", Waiter("large"), cost=4.0)
        queue.add("small", Waiter("small"), cost=1.0)
    first = served(queue)[:50]
    # In the time in which large gets 10 times 4, small gets 40 times 1.
    assert abs(first.count("large") - 10) <= 1


def test_a_large_request_is_not_starved_by_small_ones_that_keep_coming():
    queue: FairQueue[Waiter] = FairQueue()
    queue.add("a", Waiter("large"), cost=10.0)
    passed = 0
    while True:
        queue.add("b", Waiter("small"), cost=1.0)
        head = queue.peek()
        assert head is not None
        queue.served(head)
        if head.name == "large":
            break
        passed += 1
    # Tags of b: 1, 2, … 10; at 10 the large one, which came first, is first.
    assert passed <= 10


def test_a_higher_priority_goes_before_a_lower_one():
    queue: FairQueue[Waiter] = FairQueue()
    queue.add("batch", Waiter("batch"), priority=-1)
    queue.add("chat", Waiter("chat"))
    queue.add("urgent", Waiter("urgent"), priority=1)
    assert served(queue) == ["urgent", "chat", "batch"]


def test_one_client_may_wait_at_two_priorities():
    queue: FairQueue[Waiter] = FairQueue()
    queue.add("a", Waiter("a-batch"), priority=-1)
    queue.add("a", Waiter("a-chat"))
    assert served(queue) == ["a-chat", "a-batch"]


def test_a_removed_item_frees_its_place_at_once():
    queue: FairQueue[Waiter] = FairQueue()
    first, second, third = Waiter("1"), Waiter("2"), Waiter("3")
    for waiter in (first, second, third):
        queue.add("a", waiter)
    queue.remove(second)
    assert len(queue) == 2
    queue.remove(first)
    assert len(queue) == 1
    assert served(queue) == ["3"]
    assert len(queue) == 0


def test_an_empty_queue_forgets_what_was_taken():
    queue: FairQueue[Waiter] = FairQueue()
    for _ in range(50):
        queue.add("a", Waiter("a"))
    served(queue)
    queue.add("a", Waiter("a"))
    queue.add("b", Waiter("b"))
    assert served(queue) == ["a", "b"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.booleans(), st.integers(-1, 1)), max_size=60))
def test_every_item_that_stays_is_served_once_and_in_order_within_client_and_priority(arrivals):
    queue: FairQueue[Waiter] = FairQueue()
    stays: dict[tuple[str, int], list[str]] = {}
    for n, (client, cost, stay, priority) in enumerate(arrivals):
        waiter = Waiter(f"{client}{n}")
        queue.add(client, waiter, cost=cost, priority=priority)
        if stay:
            stays.setdefault((client, priority), []).append(waiter.name)
        else:
            queue.remove(waiter)
    order = served(queue)
    assert sorted(order) == sorted(name for names in stays.values() for name in names)
    for names in stays.values():
        assert [name for name in order if name in names] == names
    assert len(queue) == 0


def test_the_first_few_are_those_that_will_be_served_in_turn():
    """Given weights of 3 and 1, I expect three of the one before the first of the other, and so on."""
    queue: FairQueue[Waiter] = FairQueue()
    for _ in range(8):
        queue.add("heavy", Waiter("heavy"), weight=3.0)
        queue.add("light", Waiter("light"))
    first = [waiter.name for waiter in queue.first(8)]
    assert first.count("heavy") == 6
    assert first == served(queue)[:8]


def test_an_item_served_before_its_clients_first_is_paid_for():
    """Given a large one of client a that must wait, and b, I expect what passes it to count as a's share."""
    queue: FairQueue[Waiter] = FairQueue()
    queue.add("a", Waiter("large"), cost=2.0)
    small = Waiter("small")
    queue.add("a", small, cost=4.0)
    queue.add("a", Waiter("a"))
    for n in range(9):
        queue.add("b", Waiter(f"b{n}"))
    queue.served(small)
    # a's tags: 2 for the large one, and 2 + 4 + 1 = 7 for the next; b's are 1, 2, 3…
    order = served(queue)
    assert order.index("large") <= 2
    assert 6 <= order.index("a") - 1 <= 7


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 5), st.integers(0, 4), st.integers(-1, 1)), max_size=40),
    st.integers(0, 12),
)
def test_first_predicts_the_order_of_service_whatever_was_removed(arrivals, most):
    queue: FairQueue[Waiter] = FairQueue()
    for n, (client, cost, fate, priority) in enumerate(arrivals):
        waiter = Waiter(f"{client}{n}")
        queue.add(client, waiter, cost=cost, priority=priority)
        if fate == 0:
            queue.remove(waiter)
        if fate == 1 and (head := queue.peek()) is not None:
            queue.served(head)
    predicted = [waiter.name for waiter in queue.first(most)]
    assert predicted == served(queue)[: len(predicted)]
    assert len(predicted) <= max(most, 1)


def test_being_removed_costs_nothing():
    """Given a client nine of whose ten gave up, I expect its tenth to be where its first was."""
    queue: FairQueue[Waiter] = FairQueue()
    hasty = [Waiter(f"a{n}") for n in range(10)]
    for waiter in hasty:
        queue.add("a", waiter)
    for n in range(5):
        queue.add("b", Waiter(f"b{n}"))
    for waiter in hasty[:9]:
        queue.remove(waiter)
    assert served(queue)[:3] == ["b0", "a9", "b1"]


def test_what_comes_and_goes_behind_a_first_is_neither_counted_nor_kept():
    queue: FairQueue[Waiter] = FairQueue()
    queue.add("a", Waiter("first"))
    for n in range(1_000):
        waiter = Waiter(f"a{n}")
        queue.add("a", waiter)
        queue.remove(waiter)
    assert (len(queue), queue.waiting_of("a"), queue.ahead("a")) == (1, 1, 1)
    assert sum(len(waiting) for waiting in queue._behind.values()) < 50
    last = Waiter("last")
    queue.add("a", last)
    assert (queue.waiting_of("a"), served(queue)) == (2, ["first", "last"])
