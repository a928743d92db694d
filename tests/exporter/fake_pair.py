"""Two hosts' replayed DRBD 8.4, connected and UpToDate, whose roles follow `drbdadm`.

What they say in each pair of roles is what real ones said in it (tests/samples/drbd84), and so are the refusals.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from tests.exporter.drbd_samples import SAMPLES, command, drbd84, events2_of
from tests.exporter.fake_drbd import FakeDrbd

# By the roles of the host itself and of its peer: the capture that shows them.
SEEN = {
    ("Primary", "Secondary"): "14-connected-primary-secondary.v01",
    ("Secondary", "Primary"): "14-connected-primary-secondary.v02",
    ("Secondary", "Secondary"): "15-connected-both-secondary.v01",
    ("Primary", "Primary"): "37-two-primaries.v01",
}
# Whether two may be Primary.
SHOWN = {"no": "14-connected-primary-secondary.v01", "yes": "37-two-primaries.v01"}

# For the shell, below: RESOURCE.HOST has a role, RESOURCE.two whether two may be Primary. A file is changed at once.
HELPERS = """
is() {{ cat {state}/$1.$2; }}
becomes() {{ echo $3 > {state}/$1.$2.new-{us}; mv {state}/$1.$2.new-{us} {state}/$1.$2; exit 0; }}
refused() {{ cat {said}/$1 >&2; exit $2; }}
"""
ACTS = {
    "events2": """
        for it in {resources}; do cat {said}/$it.$(is $it {us}).$(is $it {them}); done
        echo "exists -"
        exit 0
    """,
    "show": """
        [ "$2" != --json ] || exit 20
        for it in {resources}; do cat {said}/$it.two-$(is $it two); done
        exit 0
    """,
    "primary": """
        [ "$(is $2 {them}) $(is $2 two)" != "Primary no" ] || refused primary 11
        becomes $2 {us} Primary
    """,
    "secondary": "becomes $2 {us} Secondary",
    "net-options": """
        [ "$(is $3 {us}) $(is $3 {them}) $2" != "Primary Primary --allow-two-primaries=no" ] || refused window 10
        becomes $3 two ${{2#--allow-two-primaries=}}
    """,
}


class FakePair:
    """The two fakes, in folders of their own; each resource begins Secondary on both."""

    def __init__(self, folders: dict[str, Path], shared: Path, resources: Sequence[str]) -> None:
        """Make them.

        Args:
            folders: by host, for each fake.
            shared: for what both know.
            resources: their names.
        """
        self._state, said = shared / "state", shared / "said"
        for folder in (self._state, said):
            folder.mkdir(parents=True)
        refusal = (SAMPLES / "drbd84" / "act-14-promote-peer-primary-connected.v02.txt").read_text()
        (said / "primary").write_text(refusal.partition("--stderr\n")[2].partition("--rc=")[0])
        (said / "window").write_text("Failure: (164) Cannot clear allow_two_primaries\n")
        for minor, resource in enumerate(resources):
            for roles, label in SEEN.items():
                text = events2_of(label, resource, minor)
                (said / ".".join((resource, *roles))).write_text(text)
            for allowed, label in SHOWN.items():
                text = command(drbd84(label), "drbdsetup show").replace("voms01", resource)
                (said / f"{resource}.two-{allowed}").write_text(text)
            for key in folders:
                self._put(resource, key, "Secondary")
            self._put(resource, "two", "no")
        self.of = {host: FakeDrbd(folder) for host, folder in folders.items()}
        for (us, drbd), (them, _) in product(self.of.items(), repeat=2):
            for name, act in ACTS.items() if us != them else ():
                words = {"us": us, "them": them, "resources": " ".join(resources)}
                drbd.acts(name, (HELPERS + act).format(state=self._state, said=said, **words))

    def be_primary(self, host: str, resource: str) -> None:
        """Be Primary there, and Secondary on the other, from now on."""
        for each in sorted(self.of, key=lambda it: it == host):  # never two of them
            self._put(resource, each, "Primary" if each == host else "Secondary")

    def primaries(self, resource: str) -> set[str]:
        """Where it is Primary now."""
        return {host for host in self.of if self._read(resource, host) == "Primary"}

    def two_allowed(self, resource: str) -> bool:
        """Whether both may be Primary now."""
        return self._read(resource, "two") == "yes"

    def _read(self, resource: str, key: str) -> str:
        return (self._state / f"{resource}.{key}").read_text().strip()

    def _put(self, resource: str, key: str, text: str) -> None:
        path = self._state / f"{resource}.{key}"
        new = path.with_name(f"{path.name}.new")
        new.write_text(f"{text}\n")
        new.rename(path)
