"""DRBD's one `common` section: what has it ask the arbiter is put in, and what is there stays."""

from pathlib import Path

import pytest

from actuator.drbd_common import HANDLERS, asking
from tests.actuator.test_init import COMMON, files, host

SHIPPED = Path(__file__).parents[2] / "docs" / "drbd-fencing.res"


def words(text):
    return [line.split("#")[0].split() for line in text.splitlines() if line.split("#")[0].split()]


def test_into_the_sections_that_are_there():
    assert asking(COMMON, nine=False) == (
        "common {\n\thandlers {"
        + "".join(f"\n\t\t{it}" for it in HANDLERS)
        + "\n\t}\n\tdisk {\n\t\tfencing resource-and-stonith;\n\t\ton-io-error detach;\n\t\t# size\n\t}\n\tnet {\n\t}\n}\n"
    )


def test_on_drbd_9_fencing_is_in_net():
    said = words(asking(COMMON, nine=True))
    assert said[said.index(["net", "{"]) + 1] == ["fencing", "resource-and-stonith;"]
    assert said[said.index(["disk", "{"]) + 1] == ["on-io-error", "detach;"]


@pytest.mark.parametrize(
    "text", ["", "global { usage-count no; }\n", "common {\n}\n", "common {}\n", "# common {\n"]
)
def test_sections_that_are_not_there_are_made(text):
    assert words(SHIPPED.read_text()[SHIPPED.read_text().index("common {") :])[0] == ["common", "{"]
    said = asking(text, nine=False)
    assert said.startswith(text[:8])
    for line in (*HANDLERS, "fencing resource-and-stonith;", "on-io-error detach;"):
        assert line in said
    assert said.count("{") == said.count("}") + text.count("{") - text.count("}")


def test_what_a_site_has_stays():
    own = 'common { disk { on-io-error pass_on; } handlers { split-brain "/x } fencing"; } net { after-sb-0pri disconnect; } }\n'
    said = asking(own, nine=False)
    assert "detach" not in said
    assert said.count("handlers") == said.count("disk {") == 1
    left = said
    for line in (*HANDLERS, "fencing resource-and-stonith;"):
        left = left.replace(f"\n\t\t{line}", "", 1)
    assert left == own


@pytest.mark.parametrize(
    "text",
    [
        "common { disk { fencing dont-care; } }",
        'common { handlers { fence-peer "/usr/lib/drbd/crm-fence-peer.sh"; } }',
        "common { disk {",
        "common disk",
    ],
)
def test_fencing_of_its_own_or_what_is_not_understood_is_left_alone(text):
    assert asking(text, nine=False) is None
    assert "hosts/v01/etc/drbd.d/global_common.conf" not in written(text)


def test_it_is_written_for_a_host_that_has_one():
    assert written(COMMON)["hosts/v01/etc/drbd.d/global_common.conf"] == asking(COMMON, nine=False)
    assert not [it for it in written("") if "drbd.d" in it]


def written(common):
    from tests.actuator.test_init import CHOICES

    return files([host("v01", drbd_common=common)], CHOICES)


def test_a_section_within_another_is_not_taken_for_it():
    said = asking("common { disk { } net { disk { } } }", nine=False)
    assert said.startswith("common {\n\thandlers {")
    assert said.endswith(
        "{ } net { disk { } } }".replace(
            "{ }", "{\n\t\tfencing resource-and-stonith;\n\t\ton-io-error detach; }", 1
        )
    )
