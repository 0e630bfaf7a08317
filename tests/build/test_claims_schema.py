"""The schema of build/claims.json: it describes every field, takes what the build writes and refuses what it never would."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from test_sphinx import content, everything, row, withdrawn

from nextword.book.claims import Claim, Verdict

PATH = Path(__file__).resolve().parents[2] / "chapters" / "_static" / "claims.schema.json"
SCHEMA = json.loads(PATH.read_text(encoding="utf8"))
RUN = {"key": "0f", "date": "2026-11-27", "seconds": 1.5, "budget_seconds": 60, "device": "cpu"}


def faults(made):
    """Return what the schema finds wrong, as the places of the faults."""
    return [error.json_path for error in Draft202012Validator(SCHEMA).iter_errors(made)]


def whole():
    """Return contents with a row of each sort, a withdrawn claim and a full head."""
    made = content(gone=[withdrawn()])
    made["claims"].append(row(registered={"when": "unknown"}, preset="smoke", verdict="not judged"))
    made["meta"] |= {
        "chapters": {"toy": RUN},
        "seconds": {"toy": 1.5},
        "device": "cpu",
        "threads": "1",
        "torch": "2.13.0",
    }
    return made


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


def test_what_the_build_writes_passes():
    assert not faults(whole())
    assert not faults({"format": 3, "meta": {"date": "2026-11-27", "chapters": {}}, "claims": [], "withdrawn": []})


@pytest.mark.parametrize("number", range(len(everything())))
def test_a_row_of_each_sort_passes(number):
    assert not faults(content(rows=[everything()[number]]))


def test_every_field_is_described():
    def walk(node, place):
        for name, field in node.get("properties", {}).items():
            assert field.get("description"), f"{place}.{name} has no description"
            walk(field, f"{place}.{name}")

    walk(SCHEMA, "$")
    for name, node in SCHEMA["$defs"].items():
        walk(node, name)


def test_the_schema_knows_the_fields_of_the_library():
    fields = {f.name for made in (Claim, Verdict) for f in dataclasses.fields(made)} - {"claim"}
    known = set(SCHEMA["$defs"]["claim"]["properties"])
    assert fields <= known and set(row()) == known
    assert set(withdrawn()) == set(SCHEMA["$defs"]["withdrawn"]["properties"])


def first(change):
    """Return a function that changes the first claim of the contents."""
    return lambda made: change(made["claims"][0])


FAULTS = {
    "unknown verdict": first(lambda claim: claim.update(verdict="confirmed")),
    "unknown badge": first(lambda claim: claim.update(badge="measurement")),
    "missing field": first(lambda claim: claim.pop("registered")),
    "extra field": first(lambda claim: claim.update(colour="blue")),
    "a text for a number": first(lambda claim: claim.update(measured="120.5")),
    "a number for a text": first(lambda claim: claim.update(text=120.5)),
    "interval of three numbers": first(lambda claim: claim.update(interval=[1.0, 2.0, 3.0])),
    "threshold of one number in a list": first(lambda claim: claim.update(threshold=[1.0])),
    "negative standard deviation": first(lambda claim: claim.update(std=-1.0)),
    "half a seed": first(lambda claim: claim.update(seeds=2.5)),
    "unknown state": first(lambda claim: claim.update(runs_state={"toy_run": ["unknown", "sum has changed"]})),
    "a state without its reason": first(lambda claim: claim.update(runs_state={"toy_run": ["fits"]})),
    "registered neither before nor after": first(lambda claim: claim["registered"].update(when="during")),
    "registered without its date": first(lambda claim: claim["registered"].pop("date")),
    "a change of what is not frozen": first(
        lambda claim: claim.update(amended=[{"date": "2026-11-26", "was": {"unit": ""}, "why": "x", "verdict": ""}])
    ),
    "a change without a reason": first(
        lambda claim: claim.update(amended=[{"date": "2026-11-26", "was": {"op": ">"}, "why": "", "verdict": ""}])
    ),
    "a withdrawn claim among the judged": first(lambda claim: claim.update(withdrawn="why")),
    "an id with a slash": first(lambda claim: claim.update(id="../toy")),
    "wrong format number": lambda made: made.update(format=1),
    "a format in words": lambda made: made.update(format="2"),
    "no list of the withdrawn": lambda made: made.pop("withdrawn"),
    "withdrawn without a reason": lambda made: made["withdrawn"][0].update(withdrawn=""),
    "extra field at the top": lambda made: made.update(rows=[]),
    "no date": lambda made: made["meta"].pop("date"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault):
    sound = whole()
    broken = copy.deepcopy(sound)
    FAULTS[fault](broken)
    assert faults(broken) and not faults(sound)
