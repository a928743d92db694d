"""Whatever leaves, and whatever room there is: no host is overbooked, and the order of the question is no matter."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actuator.core import place as core
from actuator.core.place import Choice, Leaving, Past, Placement, Room, place

MIB = 1 << 20
HOSTS = ("v01", "v02", "v03", "v04")
DOMAINS = tuple(f"vm{number}" for number in range(8))

rooms_of_a_site = st.fixed_dictionaries(
    {
        host: st.builds(
            Room,
            free_bytes=st.none() | st.integers(0, 16).map(lambda it: it * MIB),
            taken_bytes=st.integers(0, 4).map(lambda it: it * MIB),
            domains=st.frozensets(st.sampled_from(("old1", "old2", "old3"))),
        )
        for host in HOSTS
    }
)


@st.composite
def domains_that_leave(draw):
    """Some of them, each with hosts of its own; ``apart`` holds for both."""
    names = draw(st.lists(st.sampled_from(DOMAINS), unique=True, min_size=1))
    pairs = draw(st.sets(st.tuples(st.sampled_from(names), st.sampled_from([*names, "old1"])), max_size=5))
    apart = {name: {b for a, b in pairs if a == name} | {a for a, b in pairs if b == name} for name in names}
    return [
        Leaving(
            name,
            memory_bytes=draw(st.none() | st.integers(1, 8).map(lambda it: it * MIB)),
            hosts=draw(st.dictionaries(st.sampled_from(HOSTS), st.sampled_from(Past))),
            priority=draw(st.integers(0, 2)),
            apart=frozenset(apart[name] - {name}),
            down=draw(st.booleans()),
        )
        for name in names
    ]


def place_one(one, others, rooms):
    return Placement({it.domain: it for it in others}, rooms).choose(one)


def order(it):
    return not it.down, -it.priority, -(it.memory_bytes or 0), it.domain


@given(domains_that_leave(), rooms_of_a_site)
def test_no_host_is_ever_overbooked(leaving, rooms):
    chosen = dict(place(leaving, rooms))
    for host, room in rooms.items():
        come = [it for it in leaving if chosen[it.domain].host == host]
        if room.free_bytes is None:
            assert all(it.down for it in come)
        elif come:
            need = sum(it.memory_bytes or 0 for it in come)
            assert need == 0 or need <= room.free_bytes - room.taken_bytes


@given(st.data(), domains_that_leave(), rooms_of_a_site)
def test_the_same_question_has_the_same_answer(data, leaving, rooms):
    shuffled = data.draw(st.permutations(leaving))
    turned = [replace(it, hosts=dict(reversed(it.hosts.items()))) for it in shuffled]
    others = dict(data.draw(st.permutations(list(rooms.items()))))
    assert list(place(turned, others)) == list(place(leaving, rooms))


@given(domains_that_leave(), rooms_of_a_site)
def test_each_takes_what_those_before_it_have_left_and_nothing_of_those_after_it(leaving, rooms):
    ranked = sorted(leaving, key=order)
    chosen = list(place(leaving, rooms))
    assert [domain for domain, _ in chosen] == [it.domain for it in ranked]
    for number, it in enumerate(ranked):
        assert dict(place(ranked[: number + 1], rooms))[it.domain] == chosen[number][1]
        assert place_one(it, leaving, rooms) == chosen[number][1]


@given(domains_that_leave(), rooms_of_a_site)
def test_apart_is_kept_where_it_can_be(leaving, rooms):
    there = {host: set(room.domains) for host, room in rooms.items()}
    by_name = {it.domain: it for it in leaving}
    for domain, choice in place(leaving, rooms):
        it = by_name[domain]
        if not choice.host:
            continue
        beside = it.apart & there[choice.host]
        assert set(choice.beside) == beside
        if beside:
            assert it.down
            for host, past in it.hosts.items():
                # Every other host lacks the memory, has one of them too, or has failed it worse.
                full = host in choice.rejected and choice.rejected[host].guard == "has_memory"
                assert host == choice.host or full or it.apart & there[host] or past > it.hosts[choice.host]
        there[choice.host].add(domain)


@given(domains_that_leave(), rooms_of_a_site)
def test_each_choice_and_each_rejection_says_why(leaving, rooms):
    for domain, choice in place(leaving, rooms):
        hosts = set(next(it.hosts for it in leaving if it.domain == domain))
        assert set(choice.rejected) == hosts - {choice.host}
        assert bool(choice.reason) == bool(choice.host)
        assert all(len(it.sentence) > 15 for it in choice.rejected.values())


def leaving(domain="voms01", **more):
    more.setdefault("hosts", ("v02",))
    return Leaving(
        **{
            "domain": domain,
            "memory_bytes": 2048 * MIB,
            **more,
            "hosts": dict.fromkeys(more["hosts"], Past.GOOD),
        }
    )


def test_two_that_fit_but_not_together_do_not_both_go_there():
    room = {"v02": Room(3000 * MIB)}
    chosen = dict(place([leaving("a"), leaving("b")], room))
    assert chosen["a"].host == "v02"
    assert chosen["b"] == Choice(rejected=chosen["b"].rejected)
    assert chosen["b"].rejected["v02"].sentence == (
        "v02 has 3000 MiB of memory free less 2048 MiB for others on their way there, and b may use 2048 MiB: move or"
        " end something on v02, or give b less"
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"priority": 1}, {"memory_bytes": 2500 * MIB}),
        ({"memory_bytes": 2500 * MIB}, {}),
        ({}, {"priority": 1, "down": False}),
    ],
)
def test_what_is_down_then_priority_then_size_comes_first(first, second):
    chosen = dict(place([leaving("a", **second), leaving("b", **first)], {"v02": Room(3000 * MIB)}))
    assert (chosen["b"].host, chosen["a"].host) == ("v02", "")


def test_the_least_loaded_is_best_then_the_first_by_name():
    rooms = {
        "v02": Room(9000 * MIB, domains=frozenset({"x"})),
        "v03": Room(9000 * MIB),
        "v04": Room(9000 * MIB),
    }
    one = place_one(leaving(hosts=HOSTS[1:]), (), rooms)
    assert one.reason == (
        "v03 has 9000 MiB of memory free and 0 protected domains; it is the best of those it may go to"
    )
    assert {host: it.sentence for host, it in one.rejected.items()} == {
        "v02": "it has 1 protected domain, v03 only 0",
        "v04": "v03 comes first by name",
    }


def test_a_host_whose_memory_is_not_known_is_the_last_choice_of_what_is_down_and_none_of_what_runs():
    rooms = {"v02": Room(unknown="no answer"), "v03": Room(4096 * MIB, domains=frozenset({"x", "y"}))}
    assert place_one(leaving(hosts=("v02", "v03")), (), rooms).host == "v03"
    assert place_one(leaving(), (), rooms).host == "v02"
    runs = place_one(leaving(down=False), (), rooms)
    assert runs.rejected["v02"].guard == "has_memory"
    assert "(no answer)" in runs.rejected["v02"].sentence


def test_a_domain_of_unknown_size_moves_only_when_it_is_down():
    rooms = {"v02": Room(4096 * MIB)}
    assert place_one(leaving(memory_bytes=None), (), rooms).host == "v02"
    runs = place_one(leaving(memory_bytes=None, down=False), (), rooms)
    assert "not known yet" in runs.rejected["v02"].sentence


def test_apart_is_the_last_choice_of_what_is_down_and_none_of_what_runs():
    rooms = {
        "v02": Room(4096 * MIB, domains=frozenset({"twin"})),
        "v03": Room(4096 * MIB, domains=frozenset("xyz")),
    }
    apart = frozenset({"twin"})
    assert place_one(leaving(hosts=("v02", "v03"), apart=apart), (), rooms).host == "v03"
    assert place_one(leaving(apart=apart), (), rooms).beside == ("twin",)
    runs = place_one(leaving(apart=apart, down=False), (), rooms)
    assert runs.rejected["v02"].guard == "is_apart"


def test_a_host_that_failed_it_is_worse_than_any_other():
    rooms = {"v02": Room(4096 * MIB), "v03": Room(), "v04": Room()}
    hosts = {"v02": Past.FAILED, "v03": Past.GOOD, "v04": Past.SUSPECT}
    one = place_one(replace(leaving(), hosts=hosts), (), rooms)
    assert one.host == "v03"
    assert one.rejected["v02"].sentence == "it failed there with the last plan"
    assert one.rejected["v04"].sentence == "it failed there again and again"


@pytest.mark.parametrize("down", [True, False])
def test_a_host_without_its_networks_is_the_last_for_what_is_down_and_none_for_what_runs(down):
    rooms = {"v02": Room(4096 * MIB), "v03": Room()}
    hosts = {"v02": Past.GOOD, "v03": Past.SUSPECT}
    lacking = {"v02": "there is no interface br0"}
    one = place_one(replace(leaving(down=down, lacking=lacking), hosts=hosts), (), rooms)
    if down:
        assert one.host == "v03"
        assert one.rejected["v02"].sentence == "it has not the networks that it needs"
        assert place_one(leaving(lacking=lacking), (), rooms).host == "v02", "there is no other one"
    else:
        assert one.rejected["v02"].guard == "has_networks"
        assert "there is no interface br0" in one.rejected["v02"].sentence


def test_a_whole_site_is_placed_and_each_host_asked_once_for_each_domain(monkeypatch):
    asked = []

    def has_memory(it, host, room):
        asked.append(host)
        return core.has_memory(it, host, room)

    monkeypatch.setattr(core, "PLACE", (has_memory,))
    names = [f"h{number:03}" for number in range(200)]
    rooms = {name: Room(45 * 1024 * MIB) for name in names}
    many = [
        leaving(
            f"vm{n}",
            memory_bytes=(1 + n % 3) * 1024 * MIB,
            hosts=[names[(n * step) % 200] for step in (1, 7, 31)],
        )
        for n in range(4000)
    ]
    chosen = dict(place(many, rooms))
    assert len(asked) == sum(len(it.hosts) for it in many)
    load = dict.fromkeys(names, 0)
    for it in many:
        if chosen[it.domain].host:
            load[chosen[it.domain].host] += it.memory_bytes
    assert max(load.values()) <= 45 * 1024 * MIB
    assert all(
        re.search("MiB", it.rejected[host].sentence)
        for it in chosen.values()
        if not it.host
        for host in it.rejected
    )
    assert sum(bool(it.host) for it in chosen.values()) > 3900


# ---- worked out once for all of them -----------------------------------------------------------------------


@given(domains_that_leave(), rooms_of_a_site)
def test_one_of_those_that_leave_has_the_choice_that_place_gives_it(leaving, rooms):
    placement = Placement({it.domain: it for it in leaving}, rooms)
    assert {it.domain: placement.choose(it) for it in leaving} == dict(place(leaving, rooms)) | {
        it.domain: Choice() for it in leaving if not it.hosts
    }


@given(st.data(), domains_that_leave(), rooms_of_a_site)
def test_whoever_goes_where_it_was_to_go_changes_nothing_for_the_others(data, leaving, rooms):
    placement = before = Placement({it.domain: it for it in leaving}, rooms)
    for it in data.draw(st.permutations(leaving)):
        if not before.choices[it.domain].host:
            continue
        placement = placement.went(it.domain)
        assert it.domain not in placement.leaving
        assert all(placement.choose(other) == before.choices[other.domain] for other in leaving
                   if other.hosts and other.domain in placement.leaving)  # fmt: skip
    gone = {it.domain: before.choices[it.domain].host for it in leaving if before.choices[it.domain].host}
    for host, room in rooms.items():
        come = [it for it in leaving if gone.get(it.domain) == host]
        left = placement.rooms[host]
        assert left.taken_bytes == room.taken_bytes + sum(it.memory_bytes or 0 for it in come)
        assert left.domains == room.domains | {it.domain for it in come}


@given(st.data(), domains_that_leave(), rooms_of_a_site, st.booleans())
def test_whoever_stays_after_all_leaves_its_room_to_the_others(data, leaving, rooms, known):
    placement = Placement({it.domain: it for it in leaving}, rooms)
    if known:
        assert placement.choices
    one = data.draw(st.sampled_from(leaving))
    others = [it for it in leaving if it is not one]
    assert dict(placement.stays(one.domain).choices) == dict(place(others, rooms))


@given(st.data(), domains_that_leave(), rooms_of_a_site)
def test_one_that_leaves_otherwise_than_thought_is_placed_anew(data, leaving, rooms):
    placement = Placement({it.domain: it for it in leaving}, rooms)
    one = data.draw(st.sampled_from(leaving))
    assert placement.choose(replace(one, hosts={})) == Choice()
    other = replace(one, hosts={data.draw(st.sampled_from(HOSTS)): Past.GOOD})
    anew = [other if it is one else it for it in leaving]
    assert placement.choose(other) == dict(place(anew, rooms))[one.domain]
    stranger = replace(other, domain="stranger")
    assert placement.choose(stranger) == dict(place([*leaving, stranger], rooms))["stranger"]


def test_the_room_of_one_that_stays_goes_to_the_next():
    placement = Placement({name: leaving(name) for name in "abc"}, {"v02": Room(5000 * MIB)})
    assert {name: it.host for name, it in placement.choices.items()} == {"a": "v02", "b": "v02", "c": ""}
    assert {name: it.host for name, it in placement.stays("a").choices.items()} == {"b": "v02", "c": "v02"}
    assert {name: it.host for name, it in placement.stays("c").choices.items()} == {"a": "v02", "b": "v02"}
