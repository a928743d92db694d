"""What the benchmark of the disks has fio do, and what it makes of fio's words."""

import io
import json
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from tests.bench import bars
from tests.bench.bars import Bar, Panel, picture
from tests.bench.disk import JOBS, SERIES, SIZES_MIB, fio, panels, script, share, table, throughputs, turns
from tests.lab.vm import Resource
from tests.lab.waiting import LabError


def said(*speeds, way="write", errors=()):
    """As fio 3.33 says it; only what is read of it."""
    other = {"write": "read", "read": "write"}[way]
    jobs = [
        {
            "jobname": name,
            "error": 5 if name in errors else 0,
            way: {"bw_bytes": speed, "bw": speed // 1024},
            other: {"bw_bytes": 0, "bw": 0},
            "trim": {"bw_bytes": 0, "bw": 0},
        }
        for name, speed in zip(SERIES, speeds, strict=True)
    ]
    return "fio: a note\r\n" + json.dumps({"fio version": "fio-3.33", "jobs": jobs}, indent=2) + "\r\n"


def test_what_fio_said_of_each_disk():
    expected = {"LVM alone": 100.0, "A": 90.0, "B": 80.5, "C": 50.0}
    for way in ("read", "write"):
        assert throughputs(said(100_000_000, 90_000_000, 80_500_000, 50_000_000, way=way)) == expected


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("fio: No space left on device", "not understood"),
        (said(1, 2, 3, 4)[:-20], "not understood"),
        (said(1, 2, 3, 4).replace('"C"', '"D"'), "not understood"),
        (said(1, 2, 3, 4).replace("bw_bytes", "bandwidth"), "not understood"),
        (said(1, 2, 3, 4, errors=["B"]), r"errno \{'B': 5\}"),
        (said(1, 2, 0, 4), "nothing"),
    ],
)
def test_what_fio_did_not_say_is_no_figure(words, complaint):
    with pytest.raises(LabError, match=complaint):
        throughputs(words)


def test_each_disk_has_its_turn_at_each_place():
    todo = turns(4)
    assert len(todo) == 4 * len(SIZES_MIB) * len(JOBS)
    assert all(sorted(turn.order) == sorted(SERIES) for turn in todo)
    for place in range(len(SERIES)):
        assert {turn.order[place] for turn in todo} == set(SERIES)
    (first, *_, last) = todo
    assert fio(first)[-12:] == [
        word
        for number, name in enumerate(SERIES, 1)
        for word in (f"'--name={name}'", f"--filename=${number}", "--stonewall")
    ]
    assert fio(last)[-3:] == ["'--name=B'", "--filename=$3", "--stonewall"]


def test_the_guest_says_where_each_turn_begins_and_ends():
    lines = script(turns(1)).splitlines()
    marks = [line for line in lines if line.startswith("echo")]
    assert marks == [
        f"echo vmheal-fio {what}"
        for number in range(len(turns(1)))
        for what in (f"begin {number}", f"end {number} $?")
    ]


ROUNDS = [
    {"LVM alone": 100.0, "A": 90.0, "B": 80.0, "C": 50.0},
    {"LVM alone": 50.0, "A": 50.0, "B": 45.0, "C": 30.0},
    {"LVM alone": 200.0, "A": 190.0, "B": 100.0, "C": 80.0},
]
FOUND = {(size, job.name): ROUNDS for size in SIZES_MIB for job in JOBS}


def test_a_share_is_of_what_lvm_did_in_the_same_round():
    assert share(ROUNDS, "A") == Bar(0.9, 0.95, 1.0)
    assert share(ROUNDS, "C") == Bar(0.4, 0.5, 0.6)


def test_the_table_has_each_job_and_size():
    shown = io.StringIO()
    Console(file=shown, width=160).print(table("title", FOUND))
    rows = [line for line in shown.getvalue().splitlines() if "0.50 (0.40 to 0.60)" in line]
    assert len(rows) == len(JOBS) * len(SIZES_MIB)
    assert " 100 " in rows[0]
    assert "0.95 (0.90 to 1.00)" in rows[0]


def test_a_picture_has_a_bar_for_each_share():
    root = ET.fromstring(picture(panels(FOUND)))
    svg = "{http://www.w3.org/2000/svg}"
    texts = [it.text for it in root.iter(f"{svg}text")]
    assert set(texts) >= {job.name for job in JOBS} | {"protocol A", "256 MiB"}
    assert texts.count("0.95") == texts.count("0.50") == len(JOBS) * len(SIZES_MIB)


def test_bars_are_as_high_as_their_values_and_do_not_leave_their_panel():
    bar = {"one": Bar(0.4, 0.5, 0.6), "two": Bar(0.9, 1.0, 3.0)}
    root = ET.fromstring(picture([Panel("a & b", {"64 MiB": bar})]))
    heights = [
        float(it.get("height"))
        for it in root.iter("{http://www.w3.org/2000/svg}rect")
        if it.get("fill") in bars.COLOURS and it.get("x")
    ]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    assert all(
        float(y) > 0
        for it in root.iter("{http://www.w3.org/2000/svg}path")
        for y in [it.get("d").split("V")[-1]]
        if "V" in it.get("d")
    )


def test_a_resource_has_the_protocol_and_the_size_that_are_asked_for():
    assert "protocol A;" in Resource("r", 0, ("v01", "v02"), protocol="A").config()
    assert "protocol C;" in Resource("r", 0, ("v01", "v02")).config()
