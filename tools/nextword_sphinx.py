"""What the book needs of Sphinx beyond its extensions: measured numbers in prose, tables of claims, diagrams, exercises.

``{claim}`id` `` renders the number that the run measured for a claim, linked to its row in its chapter; a verdict other
than *holds* stands beside it as a small mark. ``id:plain`` leaves out the ±, ``id:size`` the sign; ``id:paper``,
``id:verdict``, ``id:band`` and ``id:predicted`` render the other fields. ``{claims-table} CHAPTER`` is the table at the
end of a chapter, ``{claims-table}`` the page of all claims. Each claim is written as JSON beside that page, too.
``{diagram} NAME`` draws, ``{stub} NAME`` asks for a paper's mechanism, ``{live} PART`` lets models answer in the page.
``{timeline}`` draws the papers by size, data and compute, each point a link.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

import live
import registration
import timeline
from nextword import check
from nextword.book import claims

logger = logging.getLogger(__name__)
Row = dict[str, Any]
FIELDS = ("", "plain", "size", "paper", "verdict", "band", "predicted")


def source(app: Sphinx) -> Path:
    """Return where build/claims.json lies: beside the folder that Sphinx reads."""
    return Path(app.confdir).parent / "claims.json"


def load(app: Sphinx) -> None:
    """Read build/claims.json."""
    empty = {"format": 3, "meta": {}, "claims": [], "withdrawn": []}
    content = json.loads(source(app).read_text(encoding="utf8")) if source(app).exists() else empty
    app.env.nextword_ledger = content  # type: ignore[attr-defined]  # our own attribute
    app.env.nextword_claims = {row["id"]: row for row in content["claims"]}  # type: ignore[attr-defined]


# Numbers in prose ------------------------------------------------------------------------------------------------------

MARKS = {
    "fails": ("failed", "The criterion was not met."),
    "unresolved": ("unresolved", "The interval lies on both sides of the criterion."),
    claims.CONTRADICTED: ("contradicted", "A point repeated in this build disagrees with the recorded one."),
    claims.STALE: ("stale", "The recorded run was made by other code than today's."),
    "not judged": ("not judged", "The machine was busy, or the run had another size than the claim is about."),
}
"""By verdict, the word that is said of a number in a sentence, and what it means."""
SIGNS = {"failed": "✗", "unresolved": "?"}
"""What stands for these words beside a number; all others stand there themselves."""

_WORDS = {
    ">": "above",
    ">=": "at least",
    "<": "below",
    "<=": "at most",
    "within": "between",
    "ci_low>": "with its whole 95 % interval above",
    "ci_high<": "with its whole 95 % interval below",
    "equivalent": "with its whole 95 % interval between",
}


def minus(text: str) -> str:
    """Return a text whose negative numbers have a minus sign instead of a hyphen."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", text)


def criterion(quantity: str, op: str, threshold: Any) -> str:
    """Return a criterion in words.

    Example:
        >>> criterion("sum", ">=", 100.0), criterion("gap", "equivalent", [-1, 1])
        ('“sum” at least 100', '“gap” with its whole 95 % interval between −1 and 1')
    """
    if threshold is None or threshold == "":
        return f"“{quantity}”, without pass or fail"
    limits = threshold if isinstance(threshold, (list, tuple)) else [threshold]
    return minus(f"“{quantity}” {_WORDS[op]} {' and '.join(claims.number(x) for x in limits)}")


def mark(row: Row) -> str:
    """Return the mark of a verdict that is not *holds*; what it means and the criterion appear under the pointer."""
    if row["verdict"] not in MARKS:
        return ""
    word, meaning = MARKS[row["verdict"]]
    title = f"{meaning} The criterion asks for {criterion(row['quantity'], row['op'], row['threshold'])}."
    title += " Every seed came out against our bet." if row["leaning"] else ""
    name = row["verdict"].replace(" ", "")
    spoken = f'role="img" aria-label="{word}" title="{html.escape(title)}"'
    return f'<sup class="nw-mark nw-mark-{name}" {spoken}>{SIGNS.get(word, word)}</sup>'


def field(row: Row, name: str) -> str:
    """Return one field of a claim as the book prints it."""
    if name == "paper":
        return minus(claims.number(row["paper_value"]))
    if name == "band":
        return minus(claims.range_text(row["band"])) or "no band yet"
    if name in ("verdict", "predicted"):
        return str(row[name])
    text = claims.measured_text(row, plus_minus=name != "plain", size=name == "size")
    return text.replace(" ± ", "\u00a0±\u00a0")  # never cut at the end of a line


def why_not(ledger: dict[str, Any], id: str, name: str) -> str:
    """Return why a field of a claim cannot be rendered, or an empty string."""
    if any(gone["id"] == id for gone in ledger["withdrawn"]):
        return f"{id!r} is withdrawn, so no number of it is measured"
    row = next((row for row in ledger["claims"] if row["id"] == id), None)
    if row is None:
        return f"{id!r} was not recorded by any chapter"
    if name not in FIELDS:
        return f"{name!r} is no field of a claim"
    return "the paper printed no number" if name == "paper" and row["paper_value"] is None else ""


class ClaimRole(SphinxRole):
    """``{claim}`id` ``: the measured number, as a link to the claim's row in its chapter, with its mark."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        id, _, name = self.text.partition(":")
        row, fault = self.env.nextword_claims.get(id), why_not(self.env.nextword_ledger, id, name)
        if row is None or fault:
            logger.warning("{claim}`%s`: %s", self.text, fault, location=self.get_location())
            return [nodes.literal(text=self.text)], []
        target = self.env.app.builder.get_relative_uri(self.env.docname, f"chapters/{row['chapter']}")
        link = nodes.reference(
            "", field(row, name), refuri=f"{target}#claim-{id}", internal=True, classes=["nw-number"]
        )
        beside = mark(row) if name in ("", "plain", "size") else ""
        return [link, nodes.raw("", beside, format="html")] if beside else [link], []


# The table of a chapter ------------------------------------------------------------------------------------------------

COLUMNS = ("Claim", "Paper", "Here", "Verdict")
_NONE = ' class="nw-none"'  # an empty cell, which a phone leaves out
GROUPS = {
    "replication": "What the paper found",
    "our bet": "Our own questions",
    "exact": "Exact: arithmetic and code",
    "report": "Reported, without pass or fail",
}
"""The kinds of claims in the order of the table, with their headings."""
SCORED = ("replication", "our bet")


@dataclass(frozen=True)
class Page:
    """The page on which a table stands: how its rows are called, and how it links to other pages."""

    prefix: str  # of the rows' ids: "claim-" in a chapter, nothing on the page of all claims
    uri: Callable[[str], str]

    def chapter(self, row: Row) -> str:
        """Return the address of a claim's row in its chapter."""
        return f"{self.uri('chapters/' + row['chapter'])}#claim-{row['id']}"

    def claim(self, row: Row) -> str:
        """Return the address of a claim on the page of all claims."""
        return f"{self.uri('chapters/claims')}#{row['id']}"

    def file(self, name: str) -> str:
        """Return the address of a file in the folder beside the page of all claims."""
        return f"{self.uri(f'chapters/claims/{name}').removesuffix('.html')}.json"

    def attributes(self, row: Row) -> str:
        """Return id and filter keys of a row; a withdrawn claim has no verdict but that it is withdrawn."""
        keys = {"badge": row["badge"], "verdict": row.get("verdict", "withdrawn"), "chapter": row["chapter"]}
        keys["registered"] = row["registered"]["when"]
        listed = "".join(f' data-{key}="{html.escape(value)}"' for key, value in keys.items())
        return f'id="{html.escape(self.prefix + row["id"])}"{listed}'


def code(text: str) -> str:
    """Return a text as HTML, with what stands between backticks set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def table(rows: list[Row], gone: list[Row], page: Page) -> str:
    """Return the claims of one chapter: what the paper found first, the withdrawn ones below.

    In the chapter itself the other groups are folded under a line that says how they came out.
    """
    listed = ""
    for badge, title in GROUPS.items():
        mine = [row for row in rows if row["badge"] == badge]
        folds = page.prefix and badge != "replication"
        listed += (_folded if folds else _group)(heading(title, mine), mine, page) if mine else ""
    return listed + "".join(_withdrawn(row, page) for row in gone)


def heading(title: str, rows: list[Row]) -> str:
    """Return the title of a group of claims, in the plural where more than one paper printed them.

    Example:
        >>> heading("What the paper found", [{"paper": "zhou2023"}, {"paper": "wang2023"}])
        'What the papers found'
    """
    return title.replace("paper ", "papers ") if len({row["paper"] for row in rows}) > 1 else title


def _group(title: str, rows: list[Row], page: Page) -> str:
    """Return the table of one group of claims under its title; without a title where that stands above already."""
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    group = f'<tr class="nw-group"><th colspan="{len(COLUMNS)}" scope="rowgroup">{title}</th></tr>' if title else ""
    body = group + "".join(_row(row, page) for row in rows)
    table = f'<table class="nw-claims-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="nw-table nw-claims">{table}</div>'


def _folded(title: str, rows: list[Row], page: Page) -> str:
    """Return the same, folded."""
    count = Counter(row["verdict"] for row in rows)
    order = sorted(count, key=lambda v: OUTCOMES.index(v) if v in OUTCOMES else len(OUTCOMES))
    plural = {"holds": "hold", "fails": "fail"}
    said = {v: v if count[v] == 1 else plural.get(v, v) for v in order if v != "reported"}
    told = " · ".join(f"{count[v]} {word}" for v, word in said.items())
    summary = f"{title}: {len(rows)}{f' ({told})' if told else ''}"
    return f'<details class="nw-fold"><summary>{summary}</summary>{_group("", rows, page)}</details>'


def _row(row: Row, page: Page) -> str:
    """Return one claim as a row; the details open on a click in its first cell."""
    verdict, unit = row["verdict"], html.escape(row["unit"])
    cells = (
        f"<details><summary>{code(row['statement'])}<small>{code(row['quantity'])}</small></summary>"
        f"{_details(row, page)}</details>",
        html.escape(minus(claims.number(row["paper_value"]))),
        f"<strong>{html.escape(claims.measured_text(row))}</strong> {unit}".strip(),
        f'<span class="nw-verdict nw-verdict-{verdict.replace(" ", "")}">{html.escape(verdict)}</span>{outcome(row)}',
    )
    labelled = zip(COLUMNS, cells, strict=True)  # on a phone each cell stands on its own line behind its label
    return (
        f"<tr {page.attributes(row)}>"
        + "".join(f'<td data-label="{name}"{_NONE * (cell == "–")}>{cell}</td>' for name, cell in labelled)
        + "</tr>"
    )


def outcome(row: Row) -> str:
    """Return what the table says of our bet, to be read after the verdict; † is a claim registered after its data.

    Example:
        >>> row = {"badge": "our bet", "verdict": "fails", "predicted": "holds", "leaning": "", "bet": "lost"}
        >>> row["registered"] = {"when": "before"}
        >>> outcome(row), outcome(row | {"predicted": "fails", "bet": "won"})
        ('; we bet it would hold', ', as we bet')
    """
    if row["badge"] in SCORED and row["registered"]["when"] == "after":
        return " †"
    if row["badge"] not in SCORED or row["verdict"] not in ("holds", "fails", "unresolved"):
        return ""
    if row["leaning"]:
        return "; every seed against the bet"
    if row["predicted"] == "unsure":
        return "; we were unsure"
    return ", as we bet" if row["bet"] == "won" else f"; we bet it would {row['predicted'].removesuffix('s')}"


def _details(row: Row, page: Page) -> str:
    """Return what opens under a claim: where it comes from, how it was judged, and what made the number."""
    told = [fact for fact in claims.facts(row) if fact[0] not in ("paper", "here")]
    measured = claims.number(row["measured"]) + (f", sd {row['std']:.2g}" if row["std"] is not None else "")
    measured += f", {row['seeds']} seeds" if row["seeds"] else ""
    told = [("source", f"{row['citation']}, {row['where']}"), ("measured", measured), *told]
    told += [("note", row["note"])] if row["note"] else []
    told += [("recorded run", f"{name}: {': '.join(filter(None, why))}") for name, why in row["runs_state"].items()]
    told += [("registered", registered(row)), *(("changed", text) for text in amendments(row))]
    here, link = ("in its chapter", page.chapter(row)) if not page.prefix else ("on the Claims page", page.claim(row))
    links = f'<a href="{html.escape(link)}">{here}</a> · <a href="{html.escape(page.file(row["id"]))}">as JSON</a>'
    return f'{_list(told)}<p class="nw-links">{links}</p>'


def _list(told: Iterable[tuple[str, str]]) -> str:
    """Return pairs of a word and a text as a list in HTML."""
    listed = "".join(f"<dt>{html.escape(name)}</dt><dd>{code(minus(text))}</dd>" for name, text in told)
    return f'<dl class="nw-facts">{listed}</dl>'


def registered(row: Row) -> str:
    """Return when a claim was registered: before or after its data, with both dates.

    Example:
        >>> when = {"when": "after", "commit": "0123456789", "date": "2026-11-24T10:00:00+00:00", "data": ""}
        >>> registered({"registered": when | {"data": "2026-11-23T09:30:00+00:00"}})
        'after its data: 2026-11-24 10:00 (commit 01234567), data 2026-11-23 09:30'
    """
    known = row["registered"]
    if known["when"] == "unknown":
        return "not known: the copy that this book was built from has no history of it"
    date, data = (known[key][:16].replace("T", " ") for key in ("date", "data"))
    return f"{known['when']} its data: {date} (commit {known['commit'][:8]}), " + (
        f"data {data}" if data else "no data kept"
    )


def amendments(row: Row) -> list[str]:
    """Return a text for each later change of a claim, oldest first: what it said before and the verdict under that."""
    state, told = {key: row[key] for key in claims.FROZEN}, []
    for entry in reversed(row["amended"]):
        state = state | entry["was"]
        before = f"{criterion(state['quantity'], state['op'], state['threshold'])}, our bet {state['predicted']}"
        before += f", kind {state['kind']}" if "kind" in entry["was"] else ""
        told.append(
            f"on {entry['date']}; before: {before}. {entry['why'].rstrip('.')}. Verdict under it: {entry['verdict']}."
        )
    return told[::-1]


def _withdrawn(row: Row, page: Page) -> str:
    """Return a withdrawn claim as one folded line, with the reason inside."""
    told = [("why", row["withdrawn"]), ("source", f"{row['citation']}, {row['where']}"), ("quantity", row["quantity"])]
    told += [("criterion", row["criterion"]), ("our bet", row["predicted"])]
    told += [("last verdict", row["expected"])] if row["expected"] else []
    link = f'<p class="nw-links"><a href="{html.escape(page.file(row["id"]))}">as JSON</a></p>'
    return (
        f'<details class="nw-withdrawn" {page.attributes(row)}><summary><span class="nw-verdict">withdrawn</span> '
        f"{code(row['statement'])}</summary>{_list([*told, ('registered', registered(row))])}{link}</details>"
    )


# The page of all claims ------------------------------------------------------------------------------------------------


def totals(rows: list[Row], gone: list[Row]) -> list[tuple[str, int, str]]:
    """Return the lines of the first table: what is counted, how many there are, and how they came out."""
    by = {badge: [row for row in rows if row["badge"] == badge] for badge in GROUPS}
    judged = [row for row in rows if row["kind"] != "report"]
    when = {"before": "before their data", "after": "after", "unknown": "not known"}
    known, held = Counter(row["registered"]["when"] for row in judged), {"holds": "held", "fails": "failed"}
    verdicts = {badge: Counter(held.get(row["verdict"], row["verdict"]) for row in by[badge]) for badge in by}
    in_time = [row for row in by["our bet"] if row["registered"]["when"] != "after"]
    bets, found, always = Counter(row["bet"] for row in in_time), "replication", ("held", "failed", "unresolved")
    bets["late"] = len(by["our bet"]) - len(in_time)
    against = sum(row["leaning"] != "" for row in in_time)
    runs = {name: state for row in rows for name, (state, _) in row["runs_state"].items()}
    names = {"none": "no bet", "late": "registered after their data and not counted"}
    return [
        ("Replications of what a paper found", len(by[found]), _parts(verdicts[found], always)),
        ("Bets on questions of our own", len(by["our bet"]), _parts(bets, ("won", "lost", "unresolved"), **names)),
        ("Of the unresolved ones: every seed against the bet", against, ""),
        ("Exact, counted apart", len(by["exact"]), _parts(verdicts["exact"], ("held", "failed"))),
        ("Reported, without pass or fail", len(by["report"]), ""),
        ("Registered, of all that are judged", len(judged), _parts({when[k]: known[k] for k in known}, tuple(when.values())[:2])),
        ("Changed after they were registered", sum(bool(row["amended"]) for row in rows), ""),
        ("Withdrawn", len(gone), ""),
        ("Recorded runs behind these claims", len(runs), _parts(Counter(runs.values()), ("fits",), fits="made or repeated by today's code")),
    ]  # fmt: skip


def _parts(count: dict[str, int], always: tuple[str, ...], **names: str) -> str:
    """Return counts as one line: those of ``always`` even where there is none, then the others.

    Example:
        >>> _parts({"won": 2, "none": 1}, ("won", "lost"), none="no bet")
        '2 won · 0 lost · 1 no bet'
    """
    keys = [*always, *(key for key in sorted(count) if key not in always and count[key])]
    return " · ".join(f"{count.get(key, 0)} {names.get(key, key)}" for key in keys)


CHANCE = {"holds": 0.9, "unsure": 0.5, "fails": 0.1}
"""How probable we are taken to have thought it that a claim holds, by our bet."""
OUTCOMES = ("holds", "fails", "unresolved")


def brier(rows: list[Row]) -> float | None:
    """Return the mean squared distance between the chance we gave a claim and what came out; None where nothing did.

    Example:
        >>> score = brier([{"predicted": "holds", "verdict": "holds"}, {"predicted": "unsure", "verdict": "fails"}])
        >>> round(score, 3)
        0.13
    """
    errors = [
        (CHANCE[r["predicted"]] - (r["verdict"] == "holds")) ** 2 for r in rows if r["verdict"] in ("holds", "fails")
    ]
    return sum(errors) / len(errors) if errors else None


def _totals_table(rows: list[Row], gone: list[Row]) -> str:
    body = "".join(
        f'<tr><th scope="row">{name}</th><td>{n}</td><td>{html.escape(parts)}</td></tr>'
        for name, n, parts in totals(rows, gone)
    )
    return f'<div class="nw-table"><table class="nw-totals">{body}</table></div>'


def _bets_table(rows: list[Row]) -> str:
    """Return how our bets compare with the verdicts, for replications and for our own questions."""
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("we bet", *OUTCOMES))
    rows = [row for row in rows if row["registered"]["when"] != "after"]
    body = "".join(_bets(GROUPS[badge], [row for row in rows if row["badge"] == badge]) for badge in SCORED)
    return f'<div class="nw-table"><table class="nw-totals nw-bets"><thead><tr>{heads}</tr></thead>{body}</table></div>'


def _bets(title: str, rows: list[Row]) -> str:
    """Return the part of the table of bets that is about one kind of claim."""
    wide = len(OUTCOMES)
    lines = f'<tr><th colspan="{wide + 1}" scope="rowgroup">{title}</th></tr>'
    for bet in CHANCE:
        count = Counter(row["verdict"] for row in rows if row["predicted"] == bet)
        cells = "".join(f"<td>{count[name]}</td>" for name in OUTCOMES)
        lines += f'<tr><th scope="row">{bet}</th>{cells}</tr>'
    score = f'<tr><th scope="row">Brier score</th><td colspan="{wide}">{_score(rows)}</td></tr>'
    return f"<tbody>{lines}{score}</tbody>"


def _score(rows: list[Row]) -> str:
    score = brier(rows)
    return "–" if score is None else f"{score:.2f}"


def _explanation(rows: list[Row]) -> str:
    """Return the sentences under the table of bets."""
    scored = [row for row in rows if row["badge"] in SCORED and row["registered"]["when"] != "after"]
    left = sum(row["verdict"] not in OUTCOMES for row in scored)
    text = (
        "Only claims that were registered before their data are counted here. The Brier score reads “holds” as a chance of 90 % that the claim holds, “unsure” as 50 % and “fails” as 10 %, and "
        "is the mean squared distance between that chance and what came out (1 or 0), over the claims that are resolved: 0 "
        f"is perfect, and saying 50 % every time scores 0.25. Over both kinds together it is {_score(scored)}."
    )
    return text + (f" The {left} without such a verdict in this build are left out." if left else "")


def _filters(rows: list[Row], gone: list[Row], titles: dict[str, str]) -> str:
    """Return the filters; they stay hidden where no script runs, since all is visible there."""
    everything = [*rows, *gone]
    keys = {
        "badge": ("Kind", {row["badge"]: row["badge"] for row in everything}),
        "verdict": ("Verdict", {v: v for v in sorted({row.get("verdict", "withdrawn") for row in everything})}),
        "chapter": ("Chapter", titles),
        "registered": ("Registered", {w: _WHEN[w] for w in sorted({row["registered"]["when"] for row in everything})}),
    }
    controls = "".join(_select(key, label, options) for key, (label, options) in keys.items())
    count = f'<span class="nw-count" aria-live="polite">{len(everything)} claims</span>'
    return f'<div class="nw-filters" hidden>{controls}{count}</div>'


_WHEN = {"before": "before its data", "after": "after its data", "unknown": "not known"}


def _select(key: str, label: str, options: dict[str, str]) -> str:
    listed = "".join(f'<option value="{html.escape(v)}">{html.escape(text)}</option>' for v, text in options.items())
    return f'<label>{label} <select data-key="{key}"><option value="">all</option>{listed}</select></label>'


_SCRIPT = """<script>
document.addEventListener("DOMContentLoaded", () => {
  const claims = [...document.querySelectorAll("[data-badge]")];
  const filters = document.querySelector(".nw-filters");
  const selects = [...(filters?.querySelectorAll("select") ?? [])];
  const update = () => {
    for (const claim of claims) {
      claim.hidden = selects.some((s) => s.value && claim.dataset[s.dataset.key] !== s.value);
    }
    for (const box of document.querySelectorAll(".nw-claims, .nw-claims tbody, .nw-by-chapter")) {
      box.hidden = !box.querySelector("[data-badge]:not([hidden])");
    }
    const shown = claims.filter((claim) => !claim.hidden).length;
    filters.querySelector(".nw-count").textContent = `${shown} of ${claims.length} claims`;
  };
  const open = () => {
    const claim = document.getElementById(location.hash.slice(1));
    if (!claim?.dataset.badge) return;
    if (claim.hidden) {
      for (const select of selects) select.value = "";
      update();
    }
    (claim.matches("details") ? claim : claim.querySelector("details")).open = true;
    for (let box = claim.closest("details.nw-fold"); box; box = box.parentElement.closest("details")) box.open = true;
    claim.scrollIntoView();
  };
  if (filters) {
    filters.hidden = false;
    for (const select of selects) select.addEventListener("change", update);
    addEventListener("pageshow", update);
  }
  addEventListener("hashchange", open);
  open();
});
</script>"""
"""Filters the claims, and opens the one that an address names. It works from a folder as from a server."""


# The directive ---------------------------------------------------------------------------------------------------------


class ClaimsTable(SphinxDirective):
    """``{claims-table} CHAPTER``: the claims of a chapter. Without an argument: all claims of the book, with filters."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        return self._chapter(self.arguments[0]) if self.arguments else self._whole()

    def _of(self, chapter: str) -> tuple[list[Row], list[Row]]:
        """Return the judged and the withdrawn claims of a chapter."""
        content = self.env.nextword_ledger
        judged, gone = ([row for row in content[key] if row["chapter"] == chapter] for key in ("claims", "withdrawn"))
        return judged, gone

    def _uri(self, page: str) -> str:
        return str(self.env.app.builder.get_relative_uri(self.env.docname, page))

    def _chapter(self, name: str) -> list[nodes.Node]:
        """Return the sentence on when the claims were registered, and the table."""
        rows, gone = self._of(name)
        if not rows:
            logger.warning("{claims-table} %s: no claim of it was recorded", name, location=self.get_location())
            return []
        told = nodes.paragraph("", registration.sentence(rows), classes=["nw-registered"])
        return [told, _raw(table(rows, gone, Page("claim-", self._uri)) + _SCRIPT)]

    def _whole(self) -> list[nodes.Node]:
        """Return the page of all claims: totals, our bets against the verdicts, then each chapter's table."""
        rows, gone = (self.env.nextword_ledger[key] for key in ("claims", "withdrawn"))
        titles = chapter_titles(Path(self.env.srcdir), {row["chapter"] for row in [*rows, *gone]})
        page = Page("", self._uri)
        bets = [_raw(_bets_table(rows)), nodes.paragraph("", _explanation(rows))]
        listed: list[nodes.Node] = [_raw(_filters(rows, gone, titles) + _SCRIPT)]
        for name, title in titles.items():
            body = [_raw(table(*self._of(name), page))]
            listed.append(_section(title, f"claims-of-{name}", body, ["nw-by-chapter"]))
        return [
            _section("In total", "claims-in-total", [_raw(_totals_table(rows, gone))]),
            _section("Our bets and what came out", "claims-bets", bets),
            _section("Chapter by chapter", "claims-by-chapter", listed),
            _section("As data", "claims-as-data", [_raw(_downloads(page))]),
        ]


def _raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def _section(title: str, id: str, body: list[nodes.Node], classes: list[str] | None = None) -> nodes.section:
    return nodes.section("", nodes.title("", title), *body, ids=[nodes.make_id(id)], names=[], classes=classes or [])


def _downloads(page: Page) -> str:
    """Return the paragraph that leads to the claims as JSON."""
    return (
        f'<p>All claims of this page are in <a href="{page.file("claims")}">claims.json</a>, which '
        f'<a href="{page.file("claims.schema")}">claims.schema.json</a> describes field by field. Each claim has an '
        "address on this page, <code>claims.html#</code> and its name, and its own small file.</p>"
    )


def chapter_titles(root: Path, chapters: set[str]) -> dict[str, str]:
    """Return the titles of some chapters in the order of the table of contents; a name where there is no title."""
    toc = root / "_toc.yml"
    order = re.findall(r"chapters/(\w+)", toc.read_text(encoding="utf8")) if toc.exists() else []
    placed = sorted(chapters, key=lambda name: (order.index(name) if name in order else len(order), name))
    return {name: _title(root / "chapters" / name) or name for name in placed}


def _title(page: Path) -> str:
    """Return the first heading of a chapter, which is a notebook or a page in Markdown; empty where there is none."""
    notebook, text = page.with_suffix(".ipynb"), page.with_suffix(".md")
    if notebook.exists():
        cells = json.loads(notebook.read_text(encoding="utf8"))["cells"]
        source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    else:
        source = text.read_text(encoding="utf8") if text.exists() else ""
    found = re.search(r"^# +(.+)$", source, re.M)
    return found[1].strip() if found else ""


def write_files(app: Sphinx, exception: Exception | None) -> None:
    """Write each claim as a small JSON file beside the page of all claims, and copy the whole list with its schema."""
    if exception is not None or app.builder.format != "html" or not source(app).exists():
        return
    content, folder = app.env.nextword_ledger, Path(app.outdir) / "chapters" / "claims"  # type: ignore[attr-defined]
    folder.mkdir(parents=True, exist_ok=True)
    for row in [*content["claims"], *content["withdrawn"]]:
        text = json.dumps({"format": content["format"], "claim": row}, indent=1, ensure_ascii=False)
        (folder / f"{row['id']}.json").write_text(text, encoding="utf8")
    shutil.copyfile(source(app), folder / "claims.json")
    schema = Path(app.srcdir) / "chapters" / "_static" / "claims.schema.json"
    if schema.exists():
        shutil.copyfile(schema, folder / schema.name)


# Diagrams and exercises ------------------------------------------------------------------------------------------------


class Diagram(SphinxDirective):
    """``{diagram} NAME``: the drawing ``_static/diagrams/NAME.svg`` in the page itself, so that it follows light and dark.

    The content is the caption, and ``:name:`` the name by which ``numref`` finds the figure. A drawing whose groups have
    the class ``nw-d-stage`` is shown one stage after the other where scripts run, by buttons of ``next-word.js``, each
    named by the words of its stage's last group; without scripts and on paper all stages are seen.
    """

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {"name": directives.unchanged}  # type: ignore[misc]

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        path = Path(self.env.srcdir) / "chapters" / "_static" / "diagrams" / f"{name}.svg"
        if not path.exists():
            raise self.error(f"{{diagram}} {name}: {path.name} is not among the diagrams")
        self.env.note_dependency(str(path))
        return [self.figure(path.read_text(encoding="utf8"))]

    def figure(self, drawing: str) -> nodes.figure:
        """Return a drawing with the directive's caption and name."""
        figure = nodes.figure("", _raw(drawing), classes=["nw-diagram"])
        if self.content:
            parsed = nodes.container()
            self.state.nested_parse(self.content, self.content_offset, parsed)
            figure += nodes.caption(self.block_text, "", *parsed[0].children)
        self.set_source_info(figure)
        self.add_name(figure)
        return figure


class Timeline(Diagram):
    """``{timeline}``: size, data and compute by paper, drawn from ``timeline.toml`` beside the chapters, and in words."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(timeline.FACTS))
        papers = timeline.read()
        for chapter in sorted({paper.chapter for paper in papers}):
            if f"chapters/{chapter}" not in self.env.found_docs:
                raise self.error(f"{{timeline}}: {timeline.FACTS.name} names {chapter}, and there is no such chapter")

        def uri(chapter: str) -> str:
            return str(self.env.app.builder.get_relative_uri(self.env.docname, f"chapters/{chapter}"))

        summary = "The numbers of the drawing, and where they stand"
        fold = f'<details class="nw-fold"><summary>{summary}</summary>{timeline.listed(papers, uri)}</details>'
        return [self.figure(timeline.drawing(papers, uri)), _raw(fold)]


def checked(name: str) -> Callable[[Any], None] | None:
    """Return the check of ``nextword.check`` that has a stub for readers under this name, or None."""
    found = getattr(check, name) if name in check.__all__ else None
    return found if found and check.stub(found) else None


class Stub(SphinxDirective):
    """``{stub} NAME``: what the reader writes, the call that checks it, and the hints, all from ``nextword.check``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        wanted = checked(name)
        if wanted is None:
            raise self.error(f"{{stub}} {name}: nextword.check has no such check")
        text = f"{check.stub(wanted).rstrip()}\n\n\nfrom nextword import check\n\ncheck.{name}({name})"
        code = nodes.literal_block(text, text, language="python")
        hints = [nodes.list_item("", nodes.paragraph("", hint)) for hint in check.hints(wanted)]
        fold = [_raw('<details class="nw-fold"><summary>Hints</summary>'), nodes.bullet_list("", *hints)]
        return [code, *fold, _raw("</details>")]


# Models that answer in the page ----------------------------------------------------------------------------------------


class Live(SphinxDirective):
    """``{live} PART``: a place in which models answer; ``tools/live.py`` says which there are.

    Until its scripts run, and where none runs, it shows what was stored of one text.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        part = self.arguments[0]
        if part not in live.PARTS:
            raise self.error(f"{{live}} {part}: there are {', '.join(live.PARTS)}")
        folder = "../" * self.env.docname.count("/") + "_static/live/"
        there: set[str] = self.env.temp_data.setdefault("nextword_live", set())
        head = "" if there else f'<link rel="stylesheet" href="{folder}live.css">'
        scripts = [name for name in live.PARTS[part].SCRIPTS if name not in there]
        there.update(scripts)  # those of a second place of the same view are there already
        foot = "".join(f'<script defer src="{folder}{name}.js"></script>' for name in scripts)
        shown = live.place(part, Path(self.env.srcdir) / "chapters" / "_static" / "live", first=bool(scripts))
        return [_raw(f'{head}<div class="nw-live" data-live="{part}">{shown}</div>{foot}')]


# The page of the library -----------------------------------------------------------------------------------------------


def link_chapters(app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Turn ``Used in: 2003_next_word, 2019_gpt2.`` of a docstring into links, as far as those chapters exist."""

    def link(match: re.Match[str]) -> str:
        name = match.group(0)
        return f":doc:`/chapters/{name}`" if (Path(app.srcdir) / "chapters" / f"{name}.ipynb").exists() else name

    for i, line in enumerate(lines):
        if "Used in:" in line:
            before, _, after = line.partition("Used in:")
            lines[i] = f"{before}Used in:{re.sub(r'[0-9]{4}_[a-z0-9_]+', link, after)}"


def keep_whole(_app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Keep napoleon from reading the words before a colon in an attribute's docstring as its type."""
    if what in ("attribute", "data", "property"):
        lines.insert(0, "\\ ")


HELPERS = re.compile(r"check_\w+|map_\w+_name|preset_of|replace_file|stop_tokens|due|by_name")
"""What one module of the library needs of another and no reader does; the page of the library leaves it out."""


def leave_out(_app: Sphinx, _what: str, name: str, _obj: object, _skip: bool, _options: object) -> bool | None:
    """Leave out helpers, and leave all else to autodoc."""
    return True if HELPERS.fullmatch(name) else None


# The buttons of a chapter -----------------------------------------------------------------------------------------------


def offer_edition(
    app: Sphinx, page: str, _template: str, context: dict[str, Any], _doctree: nodes.document | None
) -> None:
    """Let a chapter's buttons lead to its runner's edition, which tools/edition.py makes, and not to its MyST."""
    if not (Path(app.srcdir) / f"{page}.ipynb").exists():
        return
    file = f"notebooks/{page.rpartition('/')[2]}.ipynb"
    for button in (button for group in context.get("header_buttons", []) for button in group.get("buttons", [])):
        if button.get("text") == "Colab":  # it opens what lies in a repository: there the folder is a branch
            button["url"] = re.sub(r"/blob/.*", f"/blob/{file}", button["url"])
        elif button.get("label") == "download-source-button":
            button["url"] = context["pathto"](file, 1)
            button["tooltip"] = "Download this chapter as a notebook"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the role, the directive, what is written beside the pages and where their buttons lead."""
    app.connect("builder-inited", load)
    app.connect("build-finished", write_files)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", keep_whole, priority=400)
    app.connect("autodoc-process-docstring", link_chapters)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("html-page-context", offer_edition, priority=502)  # after the theme's buttons, at 501
    app.add_role("claim", ClaimRole())
    app.add_directive("claims-table", ClaimsTable)
    app.add_directive("diagram", Diagram)
    app.add_directive("timeline", Timeline)
    app.add_directive("stub", Stub)
    app.add_directive("live", Live)
    return {"version": "1", "parallel_read_safe": True, "env_version": 2}
