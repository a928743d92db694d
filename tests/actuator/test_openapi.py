"""The API's description: of all that the application has, and of nothing else. What runs is held to it by `tests.api`."""

import re
from dataclasses import replace

from pydantic_core import to_json

from actuator.model import HostRecord, Order
from actuator.openapi import PATH, Status, TargetGroup, description
from actuator.receive import Counters, Refusals, create_app
from actuator.report import status
from actuator.targets import targets
from tests.actuator.deliveries import MemoryJournal, parts
from tests.actuator.test_moves import assert_moved
from tests.actuator.test_moves import start as start  # noqa: PLC0414  a fixture
from tests.actuator.world import World, host_alert

METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}


def app():
    given = parts(MemoryJournal())
    return create_app(given, Refusals(given.clock), Counters(given.registry))


def test_it_has_each_path_and_method_of_the_application_and_no_other():
    has = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method)
        for rule in app().url_map.iter_rules()
        for method in rule.methods & METHODS
    }
    described = {
        (path, method.upper())
        for path, it in description()["paths"].items()
        for method in it
        if method != "parameters"
    }
    assert described == has


def test_it_is_served():
    reply = app().test_client().get(PATH)
    assert (reply.status_code, reply.content_type) == (200, "application/json")
    assert reply.json == description()


def test_everything_that_it_names_is_in_it():
    said = to_json(description()).decode()
    named = set(re.findall(r'"\$ref":"#/components/(\w+)/([^"]+)"', said))
    there = {(kind, name) for kind in ("schemas", "responses") for name in description()["components"][kind]}
    assert named <= there
    used = {
        token
        for it in re.findall(r'"security":\[([^]]*(?:\[\][^]]*)*)\]', said)
        for token in re.findall(r'"(\w+)":', it)
    }
    assert used == set(description()["components"]["securitySchemes"])


def test_the_status_is_as_described(start):
    world = World()
    machine = start(world)
    machine.run(3, keeps=True)
    world.power_cut("v01")
    machine.receive(host_alert(machine.clock.wall()))
    machine.run(20, keeps=True)
    assert_moved(world, machine)
    order = Order("ann", 1.0, "why", None)
    hosts = [
        replace(it, drained=order, down=order, paused=order) for it in (HostRecord(""), HostRecord("v01"))
    ]
    authorities = list(machine.journal.authorities().values())
    shown = status(
        machine.config, machine.protected, authorities, 1.0, 0, hosts=hosts, paused=lambda _: None, now=2.0
    )
    read = Status.model_validate_json(to_json(shown))
    assert read.domains[0].plan.plan.verb == "failover"
    assert read.paused == order
    assert read.resources


def test_the_targets_are_as_described(start):
    shown = targets(start(World()).config)
    assert [TargetGroup.model_validate(it).labels["host"] for it in shown] == ["v01", "v02"]
