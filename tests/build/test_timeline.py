"""The time line's drawing: its numbers are the papers' and the library's, its points lead to chapters, its names do not collide."""

import io
import itertools
import math
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import ImageFont
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace
from test_diagrams import FILES, GROUND, SVG, contrast, faults, palette, style_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import chapters
import timeline
from nextword.decoder import PRESETS, Decoder, DecoderConfig
from nextword.encoder import Encoder, EncoderConfig
from nextword.scaling_laws import PF_DAY, training_flops
from nextword.transformer import Transformer, TransformerConfig

PAGE = (chapters.CHAPTERS / "timeline.md").read_text(encoding="utf8")
BIBLIOGRAPHY = (chapters.CHAPTERS / "references.bib").read_text(encoding="utf8")
PAPERS = timeline.read()
DRAWING = timeline.drawing(PAPERS, lambda chapter: f"{chapter}.html")
ROOT = ElementTree.fromstring(DRAWING)
BY_NAME = {paper.name: paper for paper in PAPERS}
NUMBERS = [(paper, key, number) for paper in PAPERS for key, number in paper.numbers.items()]


def numbers_of(name):
    return {key: number.value for key, number in BY_NAME[name].numbers.items()}


# The facts.


def counted(model):
    """Return the parameters of a model of the library."""
    if model == "kaplan":  # the largest one, of GPT-2's shape: without embeddings, as the paper counts
        shape = PRESETS["gpt2-xl"]
        return 12 * shape["n_layers"] * shape["d_model"] ** 2
    with torch.device("meta"):
        if model == "transformer-big":
            sizes = {"source_vocab": 37_000, "target_vocab": 37_000, "d_model": 1024, "n_heads": 16, "d_ff": 4096}
            return Transformer(TransformerConfig(**sizes)).num_parameters()
        if model == "bert-large":
            return Encoder(EncoderConfig.preset(model)).num_parameters()
        return Decoder(DecoderConfig.preset(model)).num_parameters()


@pytest.mark.parametrize(("paper", "key", "number"), NUMBERS, ids=[f"{paper.name}-{key}" for paper, key, _ in NUMBERS])
def test_a_number_says_where_it_stands(paper, key, number):
    assert number.where and number.side in timeline.SIDES
    if key == "parameters":
        assert bool(number.model) != number.printed, "counted by the library, or printed"
        assert not number.model or counted(number.model) == number.value
    elif key == "operations" and not number.printed:
        values = numbers_of(paper.name)
        assert number.where == "6·N·D" and number.value == training_flops(values["parameters"], values["tokens"])


@pytest.mark.parametrize(
    ("name", "factors", "tokens"),
    [
        ("Transformer", ["300,000", "25,000"], 300_000 * (25_000 + 25_000)),  # of the source and of the target
        ("BERT", ["256", "90 %", "128", "10 %", "512"], 256 * (900_000 * 128 + 100_000 * 512)),
        ("Scaling laws", ["250,000", "512", "1,024"], 250_000 * 512 * 1024),
    ],
)
def test_tokens_that_are_computed_follow_from_what_is_told(name, factors, tokens):
    number = BY_NAME[name].numbers["tokens"]
    assert number.value == tokens and not number.printed
    assert [factor for factor in factors if factor not in number.where] == []


def test_all_other_tokens_are_printed():
    others = [paper.name for paper, key, number in NUMBERS if key == "tokens" and number.printed]
    assert others == ["GPT-3", "Chinchilla"]


def test_printed_operations_fit_the_parameters_and_tokens():
    for name, tolerance in (("GPT-3", 0.01), ("Chinchilla", 0.03), ("Transformer", 0.2)):  # from the GPUs' time
        values = numbers_of(name)
        assert values["operations"] == pytest.approx(
            training_flops(values["parameters"], values["tokens"]), rel=tolerance
        )
    tuned = BY_NAME["InstructGPT"].numbers["operations"]
    assert tuned.value == pytest.approx(60 * PF_DAY) and "60 petaflop/s-days" in tuned.where
    assert numbers_of("InstructGPT")["parameters"] == numbers_of("GPT-3")["parameters"]


def test_papers_come_in_the_order_of_their_months():
    dates = [paper.date for paper in PAPERS]
    assert dates == sorted(dates) and all(1 <= month <= 12 for _, month in dates)
    assert (dates[0][0], dates[-1][0]) == (timeline.FIRST, timeline.LAST)


@pytest.mark.parametrize("paper", PAPERS, ids=[paper.name for paper in PAPERS])
def test_a_paper_is_dated_and_placed_as_on_the_page_and_in_the_bibliography(paper):
    entry = re.search(rf"^@\w+\{{{paper.work},\n(.*?)^\}}", BIBLIOGRAPHY, re.MULTILINE | re.DOTALL)[1]
    if paper.arxiv:
        assert paper.arxiv in entry
    else:
        assert re.search(rf"year\s*= \{{{paper.date[0]}\}}", entry)
    [(year, body)] = re.findall(rf"^(\d{{4}}) · [^\n]*\{{cite:p\}}`{paper.work}`\n((?:: .*\n)+)", PAGE, re.MULTILINE)
    assert paper.date[0] == int(year)
    assert f"**Chapter.** []({paper.chapter}.ipynb)" in body
    assert (chapters.CHAPTERS / f"{paper.chapter}.ipynb").exists()


def test_the_page_says_of_the_numbers_what_they_are():
    largest = [max(p.numbers["parameters"].value for p in PAPERS if p.date[0] == year) for year in (2017, 2023)]
    assert largest == pytest.approx([2e8, 0.5e12], rel=0.15)
    assert "from two hundred million parameters to half a trillion" in PAGE
    operations = {
        name: numbers_of(name)["operations"] for name in ("Transformer", "GPT-3", "InstructGPT", "Chinchilla")
    }
    assert operations["Chinchilla"] / operations["Transformer"] == pytest.approx(25_000, rel=0.02)
    assert "twenty-five thousand times the operations of the Transformer" in PAGE
    assert operations["GPT-3"] / operations["InstructGPT"] == pytest.approx(60, rel=0.02)
    assert "took a sixtieth" in PAGE


# The drawing.


def group(key):
    return next(node for node in ROOT.iter(f"{SVG}g") if node.get("id") == f"timeline-{key}")


def middle(rect):
    x, y, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
    return x + width / 2, y + height / 2


def test_the_drawing_keeps_the_rules_of_the_diagrams():
    found = faults("timeline", DRAWING)
    links = {f"links to {paper.chapter}.html" for paper in PAPERS}
    labelled = "is not labelled by title and desc"  # a picture for assistive technology has no links inside
    assert {*found} == {"has an element a", labelled, *links} and found.count(labelled) == 1
    assert ROOT.get("role") == "group"


def test_it_shares_the_style_of_the_diagrams():
    shared = style_of(ElementTree.fromstring(FILES["masking"])).split("/* Only here")[0].rstrip()
    assert style_of(ROOT).startswith(shared)


@pytest.mark.parametrize("theme", GROUND)
def test_a_name_stands_out_from_its_panel(theme):
    colour = palette(theme)
    assert contrast(colour["--nw-key-text"], colour["--nw-card"]) >= 4.5
    assert contrast(colour["--nw-key"], colour["--nw-card"]) >= 3


def test_every_number_is_a_point_that_leads_to_its_chapter_and_says_what_it_is():
    drawn = [(key, link) for key in timeline.PANELS for link in group(key).iter(f"{SVG}a")]
    given = [(key, p, p.numbers[key]) for key in timeline.PANELS for p in PAPERS if key in p.numbers]
    for (key, link), (wanted, paper, number) in zip(drawn, given, strict=True):
        title, point, name = link
        assert key == wanted and link.get("href") == f"{paper.chapter}.html"
        assert name.text == number.name and number.name.startswith(paper.name)
        assert title.text == f"{number.name}, {paper.month}: {timeline.words(key, number.value)} {key}"
        assert point.get("class") == ("nw-d-key" if number.printed else "nw-d-ring")


@pytest.mark.parametrize("key", timeline.PANELS)
def test_points_stand_where_the_scales_say(key):
    digits = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
    ticks = [
        (int(t.text[2:].translate(digits)), float(t.get("y")))
        for t in group(key).iter(f"{SVG}text")
        if t.text[:2] == "10"
    ]
    (low, bottom), (high, top) = ticks[0], ticks[-1]
    years = [(int(text.text), float(text.get("x"))) for text in group("years")]
    (first, left), (last, right) = years[0], years[-1]
    points = [middle(link[1]) for link in group(key).iter(f"{SVG}a")]
    papers = [paper for paper in PAPERS if key in paper.numbers]
    for (x, y), paper in zip(points, papers, strict=True):
        exponent = low + (bottom - 4.5 - y) / (bottom - top) * (high - low)  # 4.5: a number stands on its line's middle
        assert exponent == pytest.approx(math.log10(paper.numbers[key].value), abs=0.01)
        when = first + (x - left) / (right - left) * (last - first)
        assert when == pytest.approx(paper.date[0] + (paper.date[1] - 0.5) / 12, abs=0.01)


def boxes(key):
    """Return the boxes of the words and points of a panel by what they are: left, top, right, bottom."""
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 125)
    found = {}
    for link in group(key).iter(f"{SVG}a"):
        _, point, name = link
        x, y = middle(point)
        found[f"point of {name.text}"] = x - 4.5, y - 4.5, x + 4.5, y + 4.5
        left, up, right, low = (n / 10 for n in font.getbbox(name.text, anchor="ls"))  # DejaVu is a wide one
        x, y, wide = float(name.get("x")), float(name.get("y")), right - left
        end = name.get("class").split()[-1]
        x -= {"nw-d-right": wide, "nw-d-left": 0}.get(end, wide / 2)
        found[name.text] = x, y + up, x + wide, y + low
    return found


@pytest.mark.parametrize("key", timeline.PANELS)
def test_no_name_lies_on_another_or_on_a_point_or_leaves_its_panel(key):
    found = boxes(key)
    panel = next(group(key).iter(f"{SVG}rect"))
    x, y, wide, high = (float(panel.get(name)) for name in ("x", "y", "width", "height"))
    for name, (left, top, right, bottom) in found.items():
        assert x < left and right < x + wide and y < top and bottom < y + high, name
    for (one, a), (other, b) in itertools.combinations(found.items(), 2):
        apart = a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
        assert apart, f"{one} and {other} overlap"


def test_it_tells_the_same_to_those_who_do_not_see_it():
    told = ROOT.find(f"{SVG}desc").text.replace("\u00a0", " ")
    assert "parameters from 63 million (CLIP) to 562 billion (PaLM-E)" in told
    assert "from 15 billion (Transformer) to 1.4 trillion (Chinchilla)" in told
    assert "from 2.3 · 10¹⁹ (Transformer) to 5.8 · 10²³ (Chinchilla)" in told


# The page.


@pytest.fixture
def build(tmp_path):
    """Return a function that builds a page with the directive beside some chapters, and gives its HTML and the warnings."""

    def run(names):
        (tmp_path / "chapters").mkdir()
        for name in names:
            (tmp_path / "chapters" / f"{name}.md").write_text("---\norphan: true\n---\n# T\n", encoding="utf8")
        page = re.search(r"^```\{timeline\}\n.*?^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
        (tmp_path / "chapters" / "timeline.md").write_text(f"---\norphan: true\n---\n# T\n\n{page}\n", encoding="utf8")
        (tmp_path / "index.md").write_text("# T\n", encoding="utf8")
        (tmp_path / "conf.py").write_text('extensions = ["myst_parser", "nextword_sphinx"]')
        warnings, out = io.StringIO(), tmp_path / "out"
        with docutils_namespace():
            Sphinx(tmp_path, tmp_path, out, out / "trees", "html", status=None, warning=warnings).build()
        return (out / "chapters" / "timeline.html").read_text(encoding="utf8"), warnings.getvalue(), out / "chapters"

    return run


def test_the_page_shows_the_drawing_with_its_caption_and_lists_its_numbers(build):
    text, warnings, folder = build({paper.chapter for paper in PAPERS})
    assert warnings == ""
    page = BeautifulSoup(text, "lxml")
    figure = page.select_one("figure.nw-diagram#fig-timeline")
    links = figure.select("svg a")
    assert len(links) == len(NUMBERS) and all((folder / link["href"]).is_file() for link in links)
    assert "logarithmic axes" in figure.figcaption.get_text()
    items = page.select("details.nw-fold li")
    assert [item.a.get_text() for item in items] == [paper.name for paper in PAPERS]
    for item, paper in zip(items, PAPERS, strict=True):
        assert item.a["href"] == f"{paper.chapter}.html"
        assert all(f"{timeline.words(k, n.value)} {k} ({n.where})" in item.get_text() for k, n in paper.numbers.items())


def test_a_chapter_that_is_not_there_is_a_fault(build):
    names = {paper.chapter for paper in PAPERS} - {"2020_gpt3"}
    assert "timeline.toml names 2020_gpt3" in build(names)[1]
