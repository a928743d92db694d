"""A site whose hosts can be switched off by a fence agent, one that works, hangs, fails or lies.

The agent speaks as Debian's do, and switches the lab's machines off; see `actuator.adapters.fence_agents`.
"""

import sys
from collections.abc import Sequence
from typing import Any

from tests.lab.site import Site

AGENT = """\
#!/bin/sh
while read -r line; do
    case $line in action=*) action=${{line#action=}};; plug=*) plug=${{line#plug=}};; esac
done
pid=$(cat {folder}/$plug.pid)
on() {{ grep -q '^State:' /proc/$pid/status && ! grep -q '^State:.*Z' /proc/$pid/status; }}
case $(cat {folder}/mode) in
    hangs) exec sleep 600;;
    fails) echo "Failed: Unable to connect/login to fencing device" >&2; exit 1;;
    lies) if [ $action = status ]; then echo "Status: OFF"; exit 2; fi; exit 0;;
esac
case $action in
    status) if on; then echo "Status: ON"; exit 0; fi; echo "Status: OFF"; exit 2;;
    off) kill -KILL $pid; echo "Success: Powered OFF";;
esac
"""


class FencedSite(Site):
    """Each host has the fence agent; it does what the folder's `mode` says."""

    def actuator_settings(self) -> dict[str, Any]:
        """The site's, with the agent."""
        settings = super().actuator_settings()
        for host, section in settings["hosts"].items():
            section["fence"] = {"agent": "fence_lab", "options": {"plug": host}, "timeout_seconds": 3.0}
        return settings

    def start(self, name: str, *arguments: str, wrapper: Sequence[str] = ()) -> None:
        """Start a program; the actuator so that it finds the agent."""
        if name == "actuator":
            agent = self.folder / "fence_lab"
            agent.write_text(AGENT.format(folder=self.folder))
            agent.chmod(0o755)
            wrapper = [sys.executable, "-m", "tests.fenced_actuator", str(self.folder)]
        super().start(name, *arguments, wrapper=wrapper)

    def behaves(self, mode: str) -> None:
        """How the agent is from now on."""
        (self.folder / "mode").write_text(mode)
        for name, host in self.lab.hosts.items():
            (self.folder / f"{name}.pid").write_text(str(host.machine.pid))
