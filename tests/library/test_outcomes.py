"""The copy of the verdicts that the epilogue shows: it is the ledger's, and the page speaks of each failure in it."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from nextword.book import claims, outcomes

ROOT = Path(__file__).resolve().parents[2]
EPILOGUE = ROOT / "chapters" / "2023_epilogue.ipynb"
CHAPTERS = {"one": "One", "two": "Two"}


def row(id="x.a", **changes):
    """Return a row of build/claims.json, as far as the copy reads it."""
    made = {"id": id, "chapter": "one", "test": "bet", "kind": "measurement", "verdict": "holds", "predicted": "holds"}
    made |= {"paper_value": None, "measured": 1.5, "unit": "points", "statement": "A is large.", "preset": "cpu"}
    made |= {"runs": ["a_run"]}
    return made | {"registered": {"when": "before", "date": "2026-11-24"}, "note": "not copied"} | changes


def write(path, rows, format=outcomes.FORMAT):
    path.write_text(json.dumps({"format": format, "claims": rows}))
    return path


def test_rows_are_copied_in_the_order_of_the_chapters(tmp_path):
    content = {"claims": [row("x.b", chapter="two"), row("x.a"), row("x.c")]}
    copied = outcomes.select(content, CHAPTERS)
    assert [r["id"] for r in copied] == ["x.a", "x.c", "x.b"]
    assert set(copied[0]) == set(outcomes.Outcome._fields)
    loaded = outcomes.load_outcomes(write(tmp_path / "o.json", copied))
    assert loaded[2].short == "Two" and loaded[2].registered == "before" and loaded[2].measured == 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chapter": "three"}, "has no short name"),
        ({"preset": "smoke"}, "under the preset 'smoke'"),
        ({"verdict": "stale"}, "is 'stale'"),
        ({"verdict": "contradicted"}, "is 'contradicted'"),
    ],
)
def test_what_is_no_verdict_is_not_copied(changes, message):
    with pytest.raises(ValueError, match=message):
        outcomes.select({"claims": [row(**changes)]}, CHAPTERS)


def test_the_words_of_the_ledger_for_unsound_runs_are_known():
    assert set(outcomes.UNSOUND) == {claims.STALE, claims.CONTRADICTED}


def test_a_copy_of_another_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="format=0"):
        outcomes.load_outcomes(write(tmp_path / "o.json", [], format=0))


@pytest.mark.parametrize(
    ("now", "fault"),
    [
        ([row()], None),
        ([row(verdict="fails")], "says that x.a 'holds', and this build found 'fails'"),
        ([row(verdict="not judged", kind="timing")], None),
        ([row(verdict="fails", runs=[])], None),  # measured anew by each build, on whatever machine
        ([row(), row("x.b")], "has no claim x.b"),
        ([], "has the claim x.a, which no chapter recorded"),
    ],
)
def test_what_has_changed_since_is_reported(tmp_path, now, fault):
    path = write(tmp_path / "o.json", outcomes.select({"claims": [row()]}, CHAPTERS))
    found = outcomes.changed(now, path)
    assert len(found) == (fault is not None)
    assert fault is None or (fault in found[0] and "make outcomes" in found[0])


# The copy that is committed --------------------------------------------------------------------------------------------


def test_the_copy_knows_exactly_the_claims_of_the_ledger():
    copied = {r.id: r for r in outcomes.load_outcomes()}
    alive = {c.id: c for c in claims.ledger().values() if not c.withdrawn}
    assert copied.keys() == alive.keys(), "run `make outcomes` after a build"
    for id, claim in alive.items():
        for name in ("chapter", "test", "kind", "predicted", "paper_value", "unit", "statement"):
            assert getattr(copied[id], name) == getattr(claim, name), f"{id}: {name} has changed; run `make outcomes`"
        assert copied[id].verdict in claims.VERDICTS
        assert (copied[id].verdict == "reported") == (claim.kind == "report")


def failed_section():
    notebook = nbformat.read(EPILOGUE, as_version=4)
    [cell] = [cell for cell in notebook.cells if cell.source.startswith("## What did not reproduce")]
    return cell.source


def test_the_epilogue_has_a_line_for_each_failed_replication_and_no_other():
    """Each line begins with the ledger's statement; its numbers are roles, so that none is typed."""
    lines = re.findall(r"^- \*(.+?)\* \{cite:p\}`(\w+)` (.+)$", failed_section(), re.M)
    failed = [r for r in outcomes.load_outcomes() if (r.test, r.verdict) == ("replication", "fails")]
    assert sorted(statement for statement, _, _ in lines) == sorted(r.statement for r in failed)
    said = {statement: (paper, rest) for statement, paper, rest in lines}
    for r in failed:
        paper, rest = said[r.statement]
        assert paper == claims.get(r.id).paper and re.search(rf"\{{claim\}}`{re.escape(r.id)}(:size)?`", rest), r.id
        assert r.paper_value is None or f"{{claim}}`{r.id}:paper`" in rest, f"{r.id}: the paper's number is missing"
