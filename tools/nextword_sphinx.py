"""What the book needs of Sphinx beyond its extensions: measured numbers in prose, and the page of all claims.

``{claim}`id` `` renders the number that the run measured for a claim, linked to its card; ``id:paper``, ``id:verdict``,
``id:band`` and ``id:predicted`` render the other fields. ``{claims-table}`` lists every claim with filters.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from nextword import claims

logger = logging.getLogger(__name__)


def load(app: Sphinx) -> None:
    """Read build/claims.json, which lies beside the folder that Sphinx reads."""
    path = Path(app.confdir).parent / "claims.json"
    content = json.loads(path.read_text(encoding="utf8")) if path.exists() else {"meta": {}, "claims": []}
    app.env.nextword_claims = {row["id"]: row for row in content["claims"]}  # type: ignore[attr-defined]  # our own attribute


def field(row: dict[str, Any], name: str) -> str:
    """Return one field of a claim as the book prints it."""
    if name == "paper":
        return claims.number(row["paper_value"])
    if name == "band":
        return claims.range_text(row["band"]) or "no band yet"
    if name in ("verdict", "predicted"):
        return str(row[name])
    return claims.number(row["measured"]).replace("-", "−")


class ClaimRole(SphinxRole):
    """``{claim}`id` ``: the measured number, as a link to the card in its chapter."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        id, _, name = self.text.partition(":")
        row = self.env.nextword_claims.get(id)
        if row is None or name not in ("", "paper", "verdict", "band", "predicted"):
            what = f"{id!r} was not recorded by any chapter" if row is None else f"{name!r} is no field of a claim"
            logger.warning("{claim}`%s`: %s", self.text, what, location=self.get_location())
            return [nodes.literal(text=self.text)], []
        target = self.env.app.builder.get_relative_uri(self.env.docname, f"chapters/{row['chapter']}")
        link = nodes.reference(
            "", field(row, name), refuri=f"{target}#claim-{id}", internal=True, classes=["nw-number"]
        )
        return [link], []


class ClaimsTable(SphinxDirective):
    """``{claims-table}``: every claim of the book, filtered by paper, kind and verdict in the reader's browser."""

    def run(self) -> list[nodes.Node]:
        rows = list(self.env.nextword_claims.values())
        return [nodes.raw("", _filters(rows) + _table(rows, self._link), format="html")]

    def _link(self, row: dict[str, Any]) -> str:
        page = self.env.app.builder.get_relative_uri(self.env.docname, f"chapters/{row['chapter']}")
        return f"{page}#claim-{row['id']}"


COLUMNS = ("Claim", "Paper", "Measured", "Healthy runs", "Our bet", "Verdict")


def _filters(rows: list[dict[str, Any]]) -> str:
    controls = []
    for key, label in (("citation", "Paper"), ("kind", "Kind"), ("verdict", "Verdict")):
        values = sorted({row[key] for row in rows})
        options = "".join(f'<option value="{html.escape(v)}">{html.escape(v)}</option>' for v in values)
        controls.append(
            f'<label>{label} <select data-key="{key}"><option value="">all</option>{options}</select></label>'
        )
    return f'<div class="nw-filters">{" ".join(controls)} <span class="nw-count" aria-live="polite">{len(rows)} claims</span></div>'


def _table(rows: list[dict[str, Any]], link: Any) -> str:
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    body = "".join(_row(row, link(row)) for row in rows)
    return f'<div class="nw-table"><table class="nw-claims-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{_SCRIPT}'


def _row(row: dict[str, Any], url: str) -> str:
    esc = html.escape
    keys = " ".join(f'data-{key}="{esc(row[key])}"' for key in ("citation", "kind", "verdict"))
    cells = (
        f'<a href="{esc(url)}">{esc(row["statement"])}</a><br><small>{esc(row["citation"])}, {esc(row["where"])} · {esc(row["quantity"])} · {esc(row["criterion"])}</small>',
        claims.number(row["paper_value"]),
        f"<strong>{claims.number(row['measured'])}</strong>{claims.spread_text(row['std'])} {esc(row['unit'])}",
        claims.range_text(row["band"]) or "–",
        esc(row["predicted"]),
        f'<span class="nw-verdict nw-verdict-{esc(row["verdict"].replace(" ", ""))}">{esc(row["verdict"])}</span>',
    )
    labelled = zip(COLUMNS, cells, strict=True)  # on a phone each cell stands on its own line behind its label
    return f"<tr {keys}>" + "".join(f'<td data-label="{name}">{cell}</td>' for name, cell in labelled) + "</tr>"


_SCRIPT = """<script>
(() => {
  const selects = [...document.querySelectorAll(".nw-filters select")];
  const rows = [...document.querySelectorAll(".nw-claims-table tbody tr")];
  const update = () => {
    let shown = 0;
    for (const row of rows) {
      const fits = selects.every((s) => !s.value || row.dataset[s.dataset.key] === s.value);
      row.hidden = !fits;
      shown += fits;
    }
    document.querySelector(".nw-count").textContent = `${shown} of ${rows.length} claims`;
  };
  selects.forEach((s) => s.addEventListener("change", update));
})();
</script>"""


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


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the role and the directive."""
    app.connect("builder-inited", load)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", keep_whole, priority=400)
    app.connect("autodoc-process-docstring", link_chapters)
    app.add_role("claim", ClaimRole())
    app.add_directive("claims-table", ClaimsTable)
    return {"version": "1", "parallel_read_safe": True, "env_version": 1}
