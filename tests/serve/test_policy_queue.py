"""The rule of the queue: who is next, who is refused, and that who was taken in is served in time."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from fleetmill.serve.queue import Place, Queue, Turned

ONE = frozenset({"a"})


def place(number, until=100.0, tenant="t", servers=ONE, **more):
    return Place(number=number, until=until, tenant=tenant, servers=servers, seconds=0.0, **more)


def always(servers):
    return float("inf")


def filled(*places, most=100):
    queue = Queue(most)
    for one in places:
        assert queue.join(one, now=0.0, rate=always) == ()
    return queue


def numbers(queue):
    return [p.number for p in queue.order()]


def test_the_earliest_deadline_is_next_and_a_higher_priority_before_all():
    queue = filled(place(1, 30.0), place(2, 10.0), place(3, 20.0), place(4, 99.0, priority=1), place(5, priority=-1))

    assert numbers(queue) == [4, 2, 3, 1, 5]


def test_a_tenant_with_many_waiting_does_not_keep_others_from_their_turn():
    queue = filled(*(place(n, 1.0, "greedy", cost=10.0) for n in range(20)), place(20, 50.0, "modest", cost=10.0))

    assert numbers(queue)[:3] == [0, 20, 1]
    served = []
    while (one := queue.next({"a"})) is not None:
        queue.served(one)
        served.append(one.tenant)
        if len(served) < 10:
            queue.join(place(100 + len(served), 50.0, "modest", cost=10.0), now=0.0, rate=always)
    assert abs(served[:20].count("modest") - 10) <= 1


def test_what_a_tenant_asks_for_at_once_counts_and_not_only_how_often():
    queue = filled(*(place(n, 1.0, "long", cost=40.0) for n in range(4)))
    for n in range(8):
        queue.join(place(10 + n, 5.0, "short", cost=10.0), now=0.0, rate=always)

    order = [p.tenant for p in queue.order()]
    assert order[:6].count("short") == 4


def test_only_who_can_use_what_is_free_is_next():
    queue = filled(place(1, 1.0, servers=frozenset({"b"})), place(2, 2.0, servers=frozenset({"a", "b"})))

    assert queue.next({"a"}).number == 2
    assert queue.next({"b"}).number == 1
    assert queue.next({"b"}, passed={1}).number == 2
    assert queue.next({"c"}) is None


def test_who_would_be_late_is_refused_with_the_seconds_by_which():
    queue = Queue(10)
    for n in range(3):
        assert queue.join(place(n, 5.0), now=0.0, rate=lambda servers: 1.0) == ()

    assert queue.join(place(9, 2.5), now=0.0, rate=lambda servers: 1.0) == ()
    assert queue.join(place(10, 3.0), now=0.0, rate=lambda servers: 1.0) == ()
    found = queue.join(place(11, 4.9), now=0.0, rate=lambda servers: 1.0)
    assert found == Turned(is_late=True, seconds=1.0)
    assert queue.join(place(12, 5.5), now=0.0, rate=lambda servers: 1.0) == Turned(is_late=True, seconds=0.5)
    assert len(queue) == 5


def test_a_full_queue_refuses_but_the_latest_of_a_greedy_tenant_gives_way():
    queue = filled(*(place(n, float(n), "greedy") for n in range(4)), most=4)

    assert queue.join(place(9, 1.0, "greedy"), now=0.0, rate=always) == Turned(is_late=False, seconds=0.0)
    gone = queue.join(place(10, 99.0, "modest"), now=0.0, rate=always)
    assert [p.number for p in gone] == [3]
    assert len(queue) == 4
    low = filled(*(place(n, priority=-1) for n in range(4)), most=4)
    assert len(low.join(place(9), now=0.0, rate=always)) == 1
    assert isinstance(filled(place(1), most=1).join(place(2, tenant="u"), now=0.0, rate=always), Turned)


def test_who_can_no_more_be_in_time_is_named():
    queue = filled(place(1, 1.0), place(2, 9.0))

    assert [p.number for p in queue.late(2.0)] == [1]
    queue.leave(place(1, 1.0))
    queue.leave(place(1, 1.0))
    assert numbers(queue) == [2]


arrivals = st.lists(
    st.tuples(st.floats(0, 3), st.floats(0.5, 9), st.sampled_from("abc"), st.integers(-1, 1), st.floats(1, 9)),
    max_size=40,
)


A_TENANT_PAYS_FOR_MORE_URGENT_ONES = [
    (1.0, 3.0, "a", -1, 1.0),
    (0.0, 2.0, "a", 0, 2.0),
    (1.0, 1.0, "b", 0, 2.0),
    (0.0, 1.0, "a", 0, 1.0),
    (0.0, 3.0, "a", -1, 2.0),
    (0.0, 2.0, "b", -1, 1.0),
]


@example(A_TENANT_PAYS_FOR_MORE_URGENT_ONES, 2)
@given(arrivals, st.integers(1, 3))
def test_whoever_is_taken_in_and_does_not_give_way_is_served_in_time(asked, tenants):
    """One server that takes a second for each; it is busy at the beginning."""
    queue, now = Queue(12), 0.0
    free_at, waiting, late = 1.0, set(), []

    def serve(until):
        nonlocal free_at
        while free_at <= until and (one := queue.next({"a"})) is not None:
            queue.served(one)
            waiting.discard(one.number)
            if free_at > one.until + 1e-5 and one.number not in given_way:
                late.append(one)
            free_at += 1.0
        if not len(queue):
            free_at = max(free_at, until)

    given_way = set()
    for number, (gap, patience, tenant, priority, cost) in enumerate(asked):
        now += gap
        serve(now)
        one = place(number, now + patience, tenant if tenants > 1 else "a", cost=cost, priority=priority)
        found = queue.join(one, now=max(now, free_at - 1.0), rate=lambda servers: 1.0)
        if not isinstance(found, Turned):
            waiting.add(number)
            given_way |= {p.number for p in found}
        assert len(queue) <= 12
    serve(float("inf"))
    assert late == []
