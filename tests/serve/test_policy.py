"""The policy: nothing is planned against the rule, everything is answered, and a reason says why nobody is asked."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetmill.core.serve import MEASURES, Ask, Label, Price, Served, Server, Standing, Tier, highest, may_send, reach
from fleetmill.serve.policy import Plan, Reason, Refusal, decide, raised, same_answer

MODEL = Served(model="m1", template="t1", context=4096)
BOX = Server(name="box", tier=Tier.PREMISES, engine="llama_server", address="http://box:1", models={"small": MODEL})
PARTNER = replace(BOX, name="partner", tier=Tier.PARTNER, engine="openai_url")
ASK = Ask(tenant="t", key="k", model="small", label=Label.OPEN, tokens_in=100, tokens_most=50)
FREE = Standing()

labels, tiers = st.sampled_from(list(Label)), st.sampled_from(list(Tier))
served = st.builds(
    Served,
    model=st.sampled_from(["m1", "m2"]),
    capabilities=st.sampled_from([frozenset({"chat"}), frozenset({"chat", "tools"})]),
    context=st.sampled_from([0, 100, 4096]),
)
prices = st.builds(Price, request=st.integers(0, 9), tokens_in=st.integers(0, 10**6), tokens_out=st.integers(0, 10**6))
servers = st.builds(
    Server,
    name=st.sampled_from("abcdef"),
    tier=tiers,
    engine=st.just("x"),
    address=st.just("http://x:1"),
    models=st.dictionaries(st.sampled_from(["small", "large"]), served, max_size=2),
    capacity=st.integers(0, 3),
    price=prices,
)
standings = st.builds(
    Standing,
    in_flight=st.integers(0, 4),
    first_token_seconds=st.floats(0, 5),
    is_ejected=st.booleans(),
    is_draining=st.booleans(),
)
asks = st.builds(
    Ask,
    tenant=st.just("t"),
    key=st.just("k"),
    model=st.sampled_from(["small", "large", "none"]),
    label=labels,
    wants=st.sampled_from([frozenset({"chat"}), frozenset({"chat", "tools"})]),
    tokens_in=st.integers(0, 5000),
    tokens_most=st.integers(0, 5000),
    seconds=st.none() | st.floats(0, 5),
    consent=st.booleans(),
)
budgets = st.none() | st.fixed_dictionaries({m: st.integers(0, 20_000) for m in MEASURES})
pools = st.lists(servers, max_size=6, unique_by=lambda s: s.name)
known = st.dictionaries(st.sampled_from("abcdef"), standings)


def is_within(ask, plan, standing, left):
    """Every rule that a plan must keep, in other words than those of the policy."""
    assert plan.choices
    for choice in plan.choices:
        server = choice.server
        reached = {Label.OPEN: 3, Label.ATTESTED: 2, Label.PREMISES: 1, Label.DEVICE: 0}[ask.label]
        assert int(server.tier) <= reached
        assert ask.consent or server.tier in (Tier.DEVICE, Tier.PREMISES)
        assert ask.wants <= server.models[ask.model].capabilities
        assert standing[server.name].in_flight < server.capacity
        assert not standing[server.name].is_ejected
        assert ask.seconds is None or choice.first_token_seconds <= ask.seconds
        if left is not None:
            assert all(choice.worst[m] <= left[m] for m in MEASURES)
    order = [c.server.tier for c in plan.choices]
    assert order == sorted(order)
    if plan.hedge:
        assert plan.hedge in {c.server.name for c in plan.choices[1:] if c.server.tier == order[0]}


@given(asks, pools, known, budgets)
def test_whatever_is_asked_there_is_a_plan_within_the_rules_or_a_reason(ask, pool, standing, left):
    found = decide(ask, pool, standing, left)

    if isinstance(found, Plan):
        is_within(ask, found, standing, left)
    else:
        assert isinstance(found, Refusal)
        assert found.sentence
        assert (found.retry_seconds is not None) == (found.reason in (Reason.DOWN, Reason.BUSY, Reason.LATE))


@given(asks, pools, known, budgets)
def test_an_answer_does_not_depend_on_the_order_of_the_pool(ask, pool, standing, left):
    one, other = decide(ask, pool, standing, left), decide(ask, pool[::-1], standing, left)

    assert type(one) is type(other)
    if isinstance(one, Plan):
        assert {c.server.name for c in one.choices} == {c.server.name for c in other.choices}
    else:
        assert one == other


@given(asks, pools, known, budgets, labels)
def test_a_higher_label_never_adds_a_server(ask, pool, standing, left, label):
    def names(found):
        return {c.server.name for c in found.choices} if isinstance(found, Plan) else set()

    higher = replace(ask, label=max(ask.label, label))
    assert names(decide(higher, pool, standing, left)) <= names(decide(ask, pool, standing, left))


def test_a_hundred_thousand_random_plans_send_nothing_against_the_rule():
    chance = random.Random(5)
    pool = [
        replace(BOX, name=f"s{n}", tier=Tier(n % 4), capacity=chance.randint(1, 4), price=Price(tokens_out=n * 1000))
        for n in range(8)
    ]
    plans = 0
    for _ in range(100_000):
        ask = replace(ASK, label=Label(chance.randrange(4)), consent=chance.random() < 0.5)
        standing = {s.name: Standing(in_flight=chance.randrange(4), is_ejected=chance.random() < 0.2) for s in pool}
        found = decide(ask, pool, standing, None)
        if isinstance(found, Plan):
            plans += 1
            assert all(may_send(ask.label, c.server.tier, consent=ask.consent) for c in found.choices)
            assert not any(c.server.tier >= Tier.ATTESTED for c in found.choices if not ask.consent)
            assert all(int(c.server.tier) + int(ask.label) <= 3 for c in found.choices)
    assert 10_000 < plans < 100_000


@given(labels, st.lists(labels))
def test_detectors_only_raise(label, found):
    assert raised(label, found) == highest(label, *found) >= label


def test_a_label_that_nobody_gave_stays_on_the_device():
    assert highest() == Label.DEVICE
    assert reach(Label.DEVICE) == Tier.DEVICE


REFUSALS = {
    Reason.NO_MODEL: (replace(ASK, model="huge"), [BOX], {"box": FREE}, None),
    Reason.NOT_ALLOWED: (replace(ASK, label=Label.PREMISES, consent=True), [PARTNER], {"partner": FREE}, None),
    Reason.NO_CONSENT: (ASK, [PARTNER], {"partner": FREE}, None),
    Reason.CANNOT: (replace(ASK, tokens_most=10_000), [BOX], {"box": FREE}, None),
    Reason.DOWN: (ASK, [BOX], {}, None),
    Reason.BUSY: (ASK, [BOX], {"box": Standing(in_flight=8)}, None),
    Reason.LATE: (replace(ASK, seconds=0.05), [BOX], {"box": Standing(first_token_seconds=1.0)}, None),
    Reason.BUDGET: (ASK, [BOX], {"box": FREE}, dict.fromkeys(MEASURES, 100)),
}


@pytest.mark.parametrize("reason", list(Reason))
def test_each_refusal_says_its_reason(reason):
    found = decide(*REFUSALS[reason])

    assert isinstance(found, Refusal)
    assert found.reason is reason


def test_the_nearest_tier_is_asked_first_and_a_partner_last():
    device = replace(BOX, name="here", tier=Tier.DEVICE)
    pool, standing = [PARTNER, BOX, device], dict.fromkeys(("partner", "box", "here"), FREE)

    found = decide(replace(ASK, consent=True), pool, standing, None)

    assert [c.server.name for c in found.choices] == ["here", "box", "partner"]


def test_of_equally_near_servers_the_less_loaded_half_comes_first_then_the_soonest():
    pool = [replace(BOX, name=name, capacity=4) for name in ("full", "slow", "soon")]
    standing = {
        "full": Standing(in_flight=3, first_token_seconds=0.01),
        "slow": Standing(in_flight=1, first_token_seconds=0.9),
        "soon": Standing(in_flight=1, first_token_seconds=0.5),
    }

    found = decide(ASK, pool, standing, None)

    assert [c.server.name for c in found.choices] == ["soon", "slow", "full"]
    assert found.hedge == "slow"


def test_the_same_beginning_goes_to_the_same_server_until_that_carries_more_than_the_others():
    pool = [replace(BOX, name=f"s{n}", capacity=8) for n in range(4)]
    idle = {s.name: FREE for s in pool}
    firsts = [decide(replace(ASK, prefix=(f"p{n}",)), pool, idle, None).choices[0].server.name for n in range(40)]
    again = [decide(replace(ASK, prefix=(f"p{n}",)), pool[:-1], idle, None).choices[0].server.name for n in range(40)]

    assert len(set(firsts)) == 4
    assert all(a == b for a, b in zip(firsts, again, strict=True) if a != "s3")
    busy = {**idle, firsts[0]: Standing(in_flight=4)}
    assert decide(replace(ASK, prefix=("p0",)), pool, busy, None).choices[0].server.name != firsts[0]


def test_an_answer_goes_on_only_where_model_and_template_are_the_same():
    other = replace(BOX, name="other", models={"small": replace(MODEL, template="t2")})

    assert same_answer(BOX, replace(BOX, name="twin"), "small")
    assert not same_answer(BOX, other, "small")
    assert not same_answer(BOX, BOX, "large")


def test_a_price_is_rounded_up():
    price = Price(request=3, tokens_in=1, tokens_out=2_000_000, joules_out=500_000)

    assert price.of(1, 1) == {"requests": 1, "tokens": 2, "money": 3 + 3, "energy": 1}
