"""The committed dashboards are what the code makes, and what Grafana takes."""

import json
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.dashboards import DASHBOARDS
from grafana.parts import to_json
from tests.grafana.boards import FOLDER, NAMES, all_panels, board

each_board = pytest.mark.parametrize("name", NAMES)


@each_board
def test_the_file_is_what_the_code_makes(name):
    kept = (FOLDER / "json" / f"{name}.json").read_text(encoding="utf-8")
    assert to_json(DASHBOARDS[name]()) == kept, "`make dashboards` writes it anew"


def test_there_is_a_file_for_each_and_no_other():
    files = sorted(path.name for path in (FOLDER / "json").iterdir())
    assert files == sorted(f"{name}.json" for name in DASHBOARDS) == sorted(f"{name}.json" for name in NAMES)


@each_board
def test_the_sdk_reads_it_and_writes_the_same(name):
    """But for the titles of annotations, which it does not know, and the defaults that it gives tables."""
    register_default_plugins()
    kept = board(name)
    again: dict[str, Any] = json.loads(json.dumps(Dashboard.from_json(kept), cls=JSONEncoder))
    for made, read in zip(kept["annotations"]["list"], again["annotations"]["list"], strict=True):
        for key in ("titleFormat", "textFormat", "step", "useValueForTime"):
            assert made.pop(key) is not None
        assert made == read
    for made, read in zip(kept["panels"], again["panels"], strict=True):
        if made["type"] == "table":
            assert "custom" not in made["fieldConfig"]["defaults"]
            del read["fieldConfig"]["defaults"]["custom"]
    assert again == kept


@each_board
def test_numbers_and_names_are_unique(name):
    panels = board(name)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        refs = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(refs)) == len(refs)


def test_the_uids_are_unique_and_links_lead_to_them():
    uids = [board(name)["uid"] for name in NAMES]
    assert len(set(uids)) == len(uids)
    variables = {
        board(name)["uid"]: {it["name"] for it in board(name)["templating"]["list"]} for name in NAMES
    }
    links = [
        link["url"]
        for panel in all_panels()
        for options in (panel.defaults, *panel.overrides.values())
        for link in options.get("links", ())
    ]
    assert links
    for url in links:
        path, _, parameters = url.partition("?")
        uid = path.removeprefix("/d/")
        names = {it.partition("=")[0] for it in parameters.split("&") if it.startswith("var-")}
        assert {name.removeprefix("var-") for name in names} <= variables[uid], url


@each_board
def test_panels_lie_beside_each_other_within_the_grid(name):
    taken = set()
    for panel in board(name)["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not taken & cells, panel["title"]
        taken |= cells
    below = max(y for _, y in taken) + 1
    assert len(taken) == 24 * below, "no holes"


def test_the_provisioning_files_are_grafanas():
    (source,) = yaml.safe_load((FOLDER / "provisioning" / "datasources.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    assert "uid" not in source, "the dashboards name none"
    (provider,) = yaml.safe_load((FOLDER / "provisioning" / "dashboards.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"].endswith("/share/vmheal/grafana/json")
