"""What the roles and links of a chapter stand for outside it: claims, works cited, words explained, pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pybtex.database import Entry, parse_file
from pybtex.richtext import Text

import chapters
import nextword_sphinx


class Unknown(Exception):
    """A role or a link names something that is not there; the message says what."""


@dataclass(frozen=True)
class Book:
    """What chapters refer to, rendered in plain Markdown."""

    ledger: dict[str, Any]  # build/claims.json
    works: dict[str, tuple[str, str, str]]  # by key: authors, year, address or nothing
    terms: dict[str, str]  # as the glossary spells them, by the same in lower case
    titles: dict[str, str]  # of pages, by name
    site: str  # where the book is published

    @classmethod
    def read(cls, ledger: dict[str, Any], root: Path = chapters.ROOT) -> Book:
        """Read what lies in a repository."""
        folder = root / "chapters"
        works = {key: _work(entry) for key, entry in parse_file(folder / "references.bib").entries.items()}
        glossary = (folder / "glossary.md").read_text(encoding="utf8").partition("```{glossary}\n")[2]
        terms = {term.lower(): term for term in re.findall(r"^(\w.*)$", glossary.partition("\n```")[0], re.M)}
        titles = nextword_sphinx.chapter_titles(
            root, {path.stem for path in folder.iterdir() if path.suffix in (".ipynb", ".md")}
        )
        url = yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))["repository"]["url"]
        owner, name = url.rsplit("/", 2)[1:]
        return cls(ledger, works, terms, titles, f"https://{owner}.github.io/{name}/")

    def role(self, name: str, text: str) -> str:
        """Return what a role stands for."""
        if name not in ROLES:
            raise Unknown("the runner's edition has no rule for this role; write one")
        return ROLES[name](self, text)

    def claim(self, text: str) -> str:
        """Return a claim's number or another field of it; the mark of a verdict other than *holds* behind it."""
        id, _, name = text.partition(":")
        if why := nextword_sphinx.why_not(self.ledger, id, name):
            raise Unknown(why)
        row = next(row for row in self.ledger["claims"] if row["id"] == id)
        number, (word, _) = nextword_sphinx.field(row, name), nextword_sphinx.MARKS.get(row["verdict"], ("", ""))
        return (
            f"{number}\u00a0{nextword_sphinx.SIGNS.get(word, word)}"
            if word and name in ("", "plain", "size")
            else number
        )

    def cite(self, text: str, form: str, between: str) -> str:
        """Return the works of a citation by authors and year, each with a link where one is known."""
        told = []
        for key in text.replace(",", " ").split():
            if key not in self.works:
                raise Unknown(f"references.bib has no {key}")
            people, year, url = self.works[key]
            work = form.format(people=people, year=year)
            told.append(f"[{work}]({url})" if url else work)
        return between.join(told)

    def page(self, name: str, anchor: str = "") -> str:
        """Return where a page stands: a chapter beside this one, a notebook too; any other on the book's site."""
        if name not in self.titles:
            raise Unknown(f"the book has no page {name}")
        is_chapter = (chapters.CHAPTERS / f"{name}.ipynb").exists()
        return f"{name}.ipynb" if is_chapter else f"{self.site}chapters/{name}.html{anchor}"

    def doc(self, text: str) -> str:
        """Return a link to a page."""
        title, target = title_and_target(text)
        name = target.rpartition("/")[2]
        return f"[{title or self.titles.get(name)}]({self.page(name)})"

    def term(self, text: str) -> str:
        """Return a word with a link to the glossary."""
        title, target = title_and_target(text)
        if target.lower() not in self.terms:
            raise Unknown("the glossary does not explain it")
        anchor = re.sub(r"[^A-Za-z0-9._]+", "-", f"term-{self.terms[target.lower()]}").strip("-")
        return f"[{title or target}]({self.page('glossary', f'#{anchor}')})"

    def link(self, address: str) -> str:
        """Return where a link leads: out into the world, to an object of the library, or to a page."""
        page, sign, anchor = address.partition("#")
        name, _, suffix = page.rpartition(".")
        if re.match(r"https?://|mailto:", address):
            return address
        if not page and anchor.startswith("nextword."):
            return self.page("api", f"#{anchor}")
        if suffix not in ("ipynb", "md"):
            raise Unknown("leads to no page and to no object of the library")
        return self.page(name, sign + anchor)


ROLES: dict[str, Callable[[Book, str], str]] = {
    "claim": Book.claim,
    "cite:p": lambda book, text: f"({book.cite(text, '{people} {year}', '; ')})",
    "cite:t": lambda book, text: book.cite(text, "{people} ({year})", ", "),
    "doc": Book.doc,
    "term": Book.term,
    "abbr": lambda _, text: text,
    "math": lambda _, text: f"${text}$",
}


def title_and_target(text: str) -> tuple[str, str]:
    """Return the title and the target of a role's text, such as ``the loss <eq-loss>``; the title may be empty."""
    found = re.fullmatch(r"(.*?)\s*<([^<>]+)>", text, re.S)
    return (found[1], found[2]) if found else ("", text)


def _work(entry: Entry) -> tuple[str, str, str]:
    """Return the authors of a work as a text names them, its year, and its address."""
    names = [" ".join([*p.prelast_names, *p.last_names]) for p in entry.persons["author"]]
    names = [str(Text.from_latex(name)) for name in names]
    people = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
    doi = entry.fields.get("doi")
    return people, entry.fields["year"], entry.fields.get("url") or (f"https://doi.org/{doi}" if doi else "")
