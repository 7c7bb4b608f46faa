"""Who is next: fair among clients, first in first out within one, and nobody starved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.fair_queue import FairQueue


class Waiter:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


def served(line: FairQueue[Waiter], most: int = 10_000) -> list[str]:
    """Names in the order in which they are served."""
    order = []
    while (head := line.peek()) is not None and len(order) < most:
        line.served(head)
        order.append(head.name)
    return order


def test_one_client_is_served_in_the_order_of_arrival():
    line: FairQueue[Waiter] = FairQueue()
    for n in range(5):
        line.add("a", Waiter(f"a{n}"))
    assert served(line) == ["a0", "a1", "a2", "a3", "a4"]


def test_a_flood_of_one_client_waits_behind_itself():
    line: FairQueue[Waiter] = FairQueue()
    for _ in range(100):
        line.add("flood", Waiter("flood"))
    line.add("b", Waiter("b"))
    line.add("c", Waiter("c"))
    # Given tags 1, 2, 3… for the flood's and 1 for b and c, I expect both among the first three.
    assert set(served(line)[:3]) == {"flood", "b", "c"}


def test_weights_share_in_proportion():
    line: FairQueue[Waiter] = FairQueue()
    for _ in range(90):
        line.add("heavy", Waiter("heavy"), weight=2.0)
        line.add("light", Waiter("light"), weight=1.0)
    first = served(line)[:90]
    # Twice the weight, twice the turns: 60 and 30 of 90, give or take the one at the edge.
    assert abs(first.count("heavy") - 60) <= 1


def test_cost_counts_against_the_share():
    line: FairQueue[Waiter] = FairQueue()
    for _ in range(40):
        line.add("large", Waiter("large"), cost=4.0)
        line.add("small", Waiter("small"), cost=1.0)
    first = served(line)[:50]
    # In the time in which large gets 10 times 4, small gets 40 times 1.
    assert abs(first.count("large") - 10) <= 1


def test_a_large_request_is_not_starved_by_small_ones_that_keep_coming():
    line: FairQueue[Waiter] = FairQueue()
    line.add("a", Waiter("large"), cost=10.0)
    passed = 0
    while True:
        line.add("b", Waiter("small"), cost=1.0)
        head = line.peek()
        assert head is not None
        line.served(head)
        if head.name == "large":
            break
        passed += 1
    # Tags of b: 1, 2, … 10; at 10 the large one, which came first, is first.
    assert passed <= 10


def test_a_higher_priority_goes_before_a_lower_one():
    line: FairQueue[Waiter] = FairQueue()
    line.add("batch", Waiter("batch"), priority=-1)
    line.add("chat", Waiter("chat"))
    line.add("urgent", Waiter("urgent"), priority=1)
    assert served(line) == ["urgent", "chat", "batch"]


def test_one_client_may_stand_in_two_priorities():
    line: FairQueue[Waiter] = FairQueue()
    line.add("a", Waiter("a-batch"), priority=-1)
    line.add("a", Waiter("a-chat"))
    assert served(line) == ["a-chat", "a-batch"]


def test_whoever_leaves_frees_the_place_at_once():
    line: FairQueue[Waiter] = FairQueue()
    first, second, third = Waiter("1"), Waiter("2"), Waiter("3")
    for waiter in (first, second, third):
        line.add("a", waiter)
    line.remove(second)
    assert len(line) == 2
    line.remove(first)
    assert len(line) == 1
    assert served(line) == ["3"]
    assert len(line) == 0


def test_an_empty_line_forgets_what_was_taken():
    line: FairQueue[Waiter] = FairQueue()
    for _ in range(50):
        line.add("a", Waiter("a"))
    served(line)
    line.add("a", Waiter("a"))
    line.add("b", Waiter("b"))
    assert served(line) == ["a", "b"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.booleans(), st.integers(-1, 1)), max_size=60))
def test_everybody_who_stays_is_served_once_and_in_order_within_client_and_priority(arrivals):
    line: FairQueue[Waiter] = FairQueue()
    stays: dict[tuple[str, int], list[str]] = {}
    for n, (client, cost, stay, priority) in enumerate(arrivals):
        waiter = Waiter(f"{client}{n}")
        line.add(client, waiter, cost=cost, priority=priority)
        if stay:
            stays.setdefault((client, priority), []).append(waiter.name)
        else:
            line.remove(waiter)
    order = served(line)
    assert sorted(order) == sorted(name for names in stays.values() for name in names)
    for names in stays.values():
        assert [name for name in order if name in names] == names
    assert len(line) == 0


def test_the_first_few_are_those_who_will_be_served_in_turn():
    """Given weights of 3 and 1, I expect three of the one before the first of the other, and so on."""
    line: FairQueue[Waiter] = FairQueue()
    for _ in range(8):
        line.add("heavy", Waiter("heavy"), weight=3.0)
        line.add("light", Waiter("light"))
    first = [waiter.name for waiter in line.first(8)]
    assert first.count("heavy") == 6
    assert first == served(line)[:8]


def test_who_is_served_before_its_clients_first_pays_for_it():
    """Given a large one of client a that must wait, and b, I expect what passes it to count as a's share."""
    line: FairQueue[Waiter] = FairQueue()
    line.add("a", Waiter("large"), cost=2.0)
    small = Waiter("small")
    line.add("a", small, cost=4.0)
    line.add("a", Waiter("a"))
    for n in range(9):
        line.add("b", Waiter(f"b{n}"))
    line.served(small)
    # a's tags: 2 for the large one, and 2 + 4 + 1 = 7 for the next; b's are 1, 2, 3…
    order = served(line)
    assert order.index("large") <= 2
    assert 6 <= order.index("a") - 1 <= 7


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 5), st.integers(0, 4), st.integers(-1, 1)), max_size=40),
    st.integers(0, 12),
)
def test_first_foretells_the_order_of_service_whoever_has_left(arrivals, most):
    line: FairQueue[Waiter] = FairQueue()
    for n, (client, cost, fate, priority) in enumerate(arrivals):
        waiter = Waiter(f"{client}{n}")
        line.add(client, waiter, cost=cost, priority=priority)
        if fate == 0:
            line.remove(waiter)
        if fate == 1 and (head := line.peek()) is not None:
            line.served(head)
    foretold = [waiter.name for waiter in line.first(most)]
    assert foretold == served(line)[: len(foretold)]
    assert len(foretold) <= max(most, 1)


def test_leaving_costs_nothing():
    """Given a client nine of whose ten gave up, I expect its tenth to stand where its first stood."""
    line: FairQueue[Waiter] = FairQueue()
    hasty = [Waiter(f"a{n}") for n in range(10)]
    for waiter in hasty:
        line.add("a", waiter)
    for n in range(5):
        line.add("b", Waiter(f"b{n}"))
    for waiter in hasty[:9]:
        line.remove(waiter)
    assert served(line)[:3] == ["b0", "a9", "b1"]


def test_who_comes_and_goes_behind_a_first_is_neither_counted_nor_kept():
    line: FairQueue[Waiter] = FairQueue()
    line.add("a", Waiter("first"))
    for n in range(1_000):
        waiter = Waiter(f"a{n}")
        line.add("a", waiter)
        line.remove(waiter)
    assert (len(line), line.waiting_of("a"), line.ahead("a")) == (1, 1, 1)
    assert sum(len(waiting) for waiting in line._behind.values()) < 50
    last = Waiter("last")
    line.add("a", last)
    assert (line.waiting_of("a"), served(line)) == (2, ["first", "last"])
