"""The status page before a real browser, while a host is lost with all its VMs and no fence agent tells that it is off."""

import json
from pathlib import Path

import pytest

from tests.browser import ENTER, SOON, browser
from tests.lab.waiting import wait_until
from tests.line.page import DESK, PAGE, VMS, Watched
from tests.page.accessible import faults

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(600)]


def assert_said(read: list[str], *words: str) -> None:
    """All of it could be read on the page at one time."""
    most = max(read, key=lambda said: sum(word in said for word in words))
    assert all(word in most for word in words), f"{words} was never said, at best:\n{most}"


def test_a_failover_is_followed_on_the_page_and_answered_there(tmp_path: Path) -> None:
    with Watched(tmp_path) as line:
        line.wait_at_rest()
        with browser(tmp_path, line.netns) as window:
            window.be(*DESK)
            line.log_in(window)
            assert window.text().count("runs on v01") == len(VMS)
            window.script("window.loaded = 'once'")

            took, read = line.lose_before(window)
            assert line.running("v02") == set(VMS)
            assert took.last_promoted < took.first_start, "all disks are taken before a VM may start"
            vms = "[aria-labelledby=vms]"
            wait_until(
                lambda: window.text(vms).count("runs on v02") == len(VMS), "both VMs on v02", SOON, 0.2
            )
            window.wait_text("silent for", "None.")
            assert window.script("return window.loaded") == "once", "it was never loaded anew"

            for vm in VMS:
                words = (f"make {vm} Primary on v02: done", "cannot run on v01 any more: under way")
                assert_said(read, f"failover {vm} from v01 to v02", *words, f"start {vm} on v02: to come")
            assert faults(window) == []

            window.tab_to("voms01-1")
            window.press(ENTER)
            story = window.wait_text("Evidence", "plan succeeded")
            assert window.url == f"{PAGE}/plans/voms01-1"
            assert "v01: unknown" in story
            assert "voms01 Secondary UpToDate (v01 Connecting Unknown)" in story
            assert faults(window) == []

            window.open(f"{PAGE}/hosts")
            window.tab_to("Drain… v01")
            window.press(ENTER)
            window.tab_to("Why (for the journal)")
            window.press("to be looked at")
            window.tab_to("Drain v01")
            window.press(ENTER)
            window.wait_text("v01 is drained: no VM is sent there", selector="body")
        assert {it["host"]: bool(it["drained"]) for it in line.status()["hosts"]} == {
            "v01": True,
            "v02": False,
        }
        *_, ordered = [it for it in map(json.loads, line.journal()) if it["kind"] == "ordered"]
        assert ordered["sentence"] == "ann, on the page: drain v01: to be looked at"
        assert "a-token-of-this-test" not in line.actuator.output
