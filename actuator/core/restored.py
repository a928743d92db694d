"""What of an old journal may be believed: only what holds vmheal back.

A backup says how things were. Since then a VM may have moved, a host may have been granted a disk alone, one
that was confirmed to be down may be up. Whoever acted on the backup's word could start a VM twice, or from an
old disk. So:

- Authorities are forgotten, as by ``forget``: nobody is granted a resource, and nothing is failed over with
  it, before it was seen connected and UpToDate on both its hosts. That also drops the runs of hooks, so a
  hook that asked before the restore changes nothing (R9), although versions are given a second time.
- An open plan, a release of one, a host's failure and the word that a host is down are dropped: each lets
  vmheal act. Attempts, suspects, warnings, pauses, drains and the programs that were run are kept: each only
  holds it back, or is a person's standing wish that ``status`` shows.
- Definitions are dropped: an old one would take the place of what the host has. They are kept anew where the
  VM is seen to run.
- All is paused until a person has looked whether each VM is where the journal says, and resumes.
"""

from dataclasses import replace

from actuator.model import DomainRecord, HostRecord, Order

REASON = "the journal was restored from a backup: see that each VM is where 'status' says, then resume"


def restored_domain(it: DomainRecord) -> DomainRecord:
    """A domain's record without what lets vmheal act."""
    plan = None if it.open_plan is not None else it.plan
    return replace(it, version=it.version + 1, plan=plan, approved="")


def restored_host(it: HostRecord, by: str, at: float) -> HostRecord:
    """A host's record likewise; that of all hosts, which is named "", begins the pause."""
    paused = Order(by, at, REASON) if it.host == "" else it.paused
    return replace(it, version=it.version + 1, failed_at=None, down=None, paused=paused)
