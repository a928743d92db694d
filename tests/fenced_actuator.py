"""The actuator, with fence agents of a folder's own beside Debian's: `... -m tests.fenced_actuator FOLDER serve ...`."""

import sys
from functools import partial

import actuator.__main__
from actuator.adapters.fence_agents import PATH, FenceAgents

if __name__ == "__main__":
    folder = sys.argv.pop(1)
    actuator.__main__.FenceAgents = partial(FenceAgents, path=f"{folder}:{PATH}")  # type: ignore[assignment,misc]
    actuator.__main__.main()
