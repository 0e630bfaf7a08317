"""The drawn diagrams: accessible, in one style, readable on a phone, and true to the library and to the chapter's numbers."""

import ast
import inspect
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import gymnasium
import pytest
import torch
from torch import nn

from nextword import data
from nextword.attention import MultiHeadAttention, capture_attention
from nextword.book import icons, robots
from nextword.contrastive import CLIP, CLIPConfig, contrastive_loss, name_vectors, rank_of, text_batch
from nextword.decoder import Decoder, DecoderConfig
from nextword.encoder import Encoder, EncoderConfig, MaskedLM, mask_tokens
from nextword.evaluation import few_shot_prompt
from nextword.generation import beam_search, length_penalty
from nextword.instructions import Record, ids_and_targets
from nextword.layers import FeedForward
from nextword.multimodal import PictureLM, PictureTokens
from nextword.ngram import NeuralNGram, NeuralNGramConfig
from nextword.ppo import PPOConfig, ppo_loss
from nextword.recurrent import Seq2SeqConfig, Seq2SeqLSTM
from nextword.rlhf import shape_rewards
from nextword.sparse_attention import SparsePattern, reachable
from nextword.tokenizers import ByteBPE
from nextword.transformer import Transformer, TransformerConfig
from nextword.wordpiece import WordPiece

ROOT = Path(__file__).resolve().parents[2]
DIAGRAMS = ROOT / "chapters" / "_static" / "diagrams"
FILES = {path.stem: path.read_text(encoding="utf8") for path in sorted(DIAGRAMS.glob("*.svg"))}
CHAPTER = json.loads((ROOT / "chapters" / "2017_transformer.ipynb").read_text(encoding="utf8"))

SVG = "{http://www.w3.org/2000/svg}"
PHONE, SMALLEST, LARGEST = 390, 11, 12_000  # pixels of width, pixels of text, bytes of a file
ALLOWED = {"svg", "title", "desc", "style", "defs", "marker", "g", "use", "text", "rect", "path"}
GROUND = {"light": "#ffffff", "dark": "#121212"}  # of the page
RULE = re.compile(r"^ +\.(nw-d-[\w-]+) \{([^{}]*)\}", re.MULTILINE)
VARIABLE = re.compile(r"(--nw-[\w-]+): (#[0-9a-f]{6})")
FALLBACK = re.compile(r"var\((--nw-[\w-]+), (#[0-9a-f]{3,6})\)")


def elements(root):
    """Yield every element with its tag's plain name and the classes of itself and its ancestors, outermost first."""

    def walk(node, classes):
        classes = [*classes, node.get("class", "").split()]
        yield node, node.tag.removeprefix(SVG), classes
        for child in node:
            yield from walk(child, classes)

    return walk(root, [])


def style_of(root):
    return root.find(f"{SVG}style").text


def sizes(css):
    """Return the font size of each class that sets one."""
    rules = {name: re.search(r"font-size: ([\d.]+)px", body) for name, body in RULE.findall(css)}
    base = re.search(r"^ +\.nw-d \{[^}]*font-size: ([\d.]+)px", css, re.MULTILINE)
    return {"nw-d": float(base[1])} | {name: float(found[1]) for name, found in rules.items() if found}


def faults(stem, source):
    """Return what is wrong with one file, one sentence a fault."""
    try:
        root = ElementTree.fromstring(source)
    except ElementTree.ParseError as error:
        return [f"does not parse: {error}"]
    found, css = [], style_of(root)
    # A page takes the file as it is, in the middle of its HTML.
    found += ["is too large"] if len(source.encode()) >= LARGEST else []
    found += ["has an XML declaration"] if source.startswith("<?xml") else []
    found += ["has an empty line, which ends raw HTML in Markdown"] if "\n\n" in source else []
    # What it says to those who do not see it.
    title, desc = root[0], root[1]
    found += ["has no title and desc in front"] if (title.tag, desc.tag) != (f"{SVG}title", f"{SVG}desc") else []
    found += ["is not labelled by title and desc"] if root.get("role") != "img" else []
    named = f"{title.get('id')} {desc.get('id')}"
    found += ["is not labelled by title and desc"] if root.get("aria-labelledby") != named else []
    sentences = len(re.findall(r"[^.]{15,}\.(?=\s|$)", desc.text or ""))
    found += [f"describes itself in {sentences} sentences"] if not 2 <= sentences <= 4 else []
    # Nothing is fetched, nothing runs.
    ids = {node.get("id") for node in root.iter() if node.get("id")}
    links = re.findall(r"url\(([^)]*)\)", source)
    for node, tag, classes in elements(root):
        found += [f"has an element {tag}"] if tag not in ALLOWED else []
        prefixed = node.get("id", stem).startswith(stem)
        found += [] if prefixed else [f"id {node.get('id')} has not the file's name in front"]
        for key, value in node.attrib.items():
            name = key.split("}")[-1]
            found += [f"has a handler {name}"] if name.startswith("on") else []
            links += [value] if name == "href" else []
            if name in ("fill", "stroke", "font-size", "font-family"):
                found.append(f"sets {name} outside its style")
        found += [f"class {c} is no nw-d" for c in classes[-1] if not re.fullmatch(r"nw-d(-[\w-]+)?", c)]
        found += [f"class {c} has no rule" for c in classes[-1] if f".{c}" not in css and c not in MARKS]
    found += [f"links to {link}" for link in links if link[:1] != "#" or link[1:] not in ids]
    found += ["imports a style"] if "@import" in css or "@font-face" in css else []
    # Readable on a phone.
    _, _, width, height = map(float, root.get("viewBox").split())
    found += ["is too wide"] if width > 720 else []
    stretched = abs(float(root.get("width")) / float(root.get("height")) - width / height) > 0.005
    found += ["has a size of another shape than its viewBox"] if stretched else []
    by_class = sizes(css)
    for node, tag, classes in elements(root):
        if tag == "text":
            size = [by_class[c] for names in classes for c in names if c in by_class][-1]  # the innermost
            pixels = size * PHONE / width
            if pixels < SMALLEST:
                found.append(f"{''.join(node.itertext())!r} has {pixels:.1f} pixels on a phone")
            if "scale" in node.get("transform", ""):
                found.append(f"{''.join(node.itertext())!r} is scaled")
    return found


MARKS = {"nw-d-step", "nw-d-seen", "nw-d-kept", "nw-d-new", "nw-d-later", "nw-d-stage"}
"""Classes that mean something to the tests below, whether or not a rule dresses them."""


def test_there_are_diagrams():
    assert {"transformer", "attention", "heads", "three-attentions", "masking"} <= set(FILES)


@pytest.mark.parametrize("stem", FILES)
def test_diagram_keeps_the_rules(stem):
    assert faults(stem, FILES[stem]) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("</svg>", "", "does not parse"),
        ("</svg>", "<script/></svg>", "element script"),
        ("</svg>", "<image href='http://a.b/c.png'/></svg>", "links to http"),
        ("<g id=", "<g onclick='' id=", "handler onclick"),
        ("<g id=", "<g fill='#222' id=", "sets fill"),
        ("url(#masking-tip)", "url(#masking-top)", "links to #masking-top"),
        ("role=", "data-role=", "not labelled"),
        ("<title ", "<desc/><title ", "no title and desc"),
        ('id="masking-1"', 'id="step-1"', "file's name"),
        ('class="nw-d-head"', 'class="head"', "is no nw-d"),
        ("font-size: 12.5px", "font-size: 11px", "pixels on a phone"),
        ("<svg", "<?xml version='1.0'?><svg", "XML declaration"),
        ("</svg>", "\n\n</svg>", "empty line"),
        ("</svg>", f"<!--{'x' * LARGEST}--></svg>", "too large"),
        ('height="', 'height="1', "another shape"),
    ],
)
def test_a_planted_fault_is_found(old, new, fault):
    source = FILES["masking"]
    assert old in source
    assert fault in " ".join(faults("masking", source.replace(old, new)))


def test_ids_are_unique_over_all_files():
    ids = [i for source in FILES.values() for i in re.findall(r'\bid="([^"]+)"', source)]
    assert len(ids) == len(set(ids))


def test_all_share_one_style():
    starts = {style_of(ElementTree.fromstring(s)).split("/* Only here")[0].rstrip() for s in FILES.values()}
    assert len(starts) == 1, "a page shows several, and a style holds for all of it: keep the shared part the same"


def test_motion_is_for_those_who_like_it():
    for stem, source in FILES.items():
        css = style_of(ElementTree.fromstring(source))
        calm, *moving = re.split(r"(?m)^    @media \(prefers-reduced-motion: no-preference\) \{\n", css)
        calm += "".join(part.split("\n    }\n", 1)[1] for part in moving)  # the block ends at its own indentation
        assert not re.search(r"animation|@keyframes|transition", calm), f"{stem} moves for everybody"
        assert "infinite" not in css, f"{stem} never comes to rest"
        assert "<animate" not in source, f"{stem} moves without asking"


# Colours.


def rgb(colour):
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * d for d in digits)
    return [int(digits[i : i + 2], 16) for i in (0, 2, 4)]


def over(colour, opacity, ground):
    return [opacity * c + (1 - opacity) * g for c, g in zip(colour, ground, strict=True)]


def contrast(a, b):
    def luminance(colour):
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def palette(theme):
    """Return the colours of a theme by the name of their variable."""
    css = style_of(ElementTree.fromstring(FILES["masking"]))
    colours = {name: rgb(colour) for name, colour in FALLBACK.findall(css)}
    if theme == "dark":
        start = css.index('html[data-theme="dark"]')
        colours |= {name: rgb(colour) for name, colour in VARIABLE.findall(css[start : css.index("}", start)])}
    return colours


def test_each_colour_has_one_fallback_and_both_darks_are_the_same():
    css = style_of(ElementTree.fromstring(FILES["masking"]))
    fallbacks = set(FALLBACK.findall(css))
    assert len(fallbacks) == len({name for name, _ in fallbacks})
    inlined, alone = css.split('html[data-theme="dark"]')[1].split("prefers-color-scheme: dark")
    assert VARIABLE.findall(inlined) == VARIABLE.findall(alone.split("Only here")[0])
    assert {name for name, _ in VARIABLE.findall(inlined)} == {name for name, _ in fallbacks}


@pytest.mark.parametrize("theme", GROUND)
def test_text_stands_out_from_what_it_stands_on(theme):
    colour, ground = palette(theme), rgb(GROUND[theme])
    card = colour["--nw-card"]
    soft = {name: over(colour[f"--nw-{name}"], 0.16, ground) for name in ("ask", "key", "val")}
    pairs = {f"ink on {name}": (colour["--nw-ink"], g) for name, g in {"page": ground, "card": card, **soft}.items()}
    pairs |= {"quiet on page": (colour["--nw-quiet"], ground), "quiet on card": (colour["--nw-quiet"], card)}
    for name in ("ask", "key", "val"):
        text = colour[f"--nw-{name}-text"]
        pairs |= {f"{name} on page": (text, ground), f"{name} on itself": (text, soft[name])}
        pairs |= {f"{name} on the decoder": (text, soft["ask"])}  # Q, K and V
    pairs["a new key"] = colour["--nw-on"], colour["--nw-key"]
    heat = colour["--nw-key-text"]
    pairs |= {f"weight {w}": (colour["--nw-ink"], over(heat, w, ground)) for w in (0.029, 0.053, 0.49)}
    pairs["weight 0.89"] = colour["--nw-on"], over(heat, 0.89, ground)
    low = {name: round(contrast(*pair), 2) for name, pair in pairs.items() if contrast(*pair) < 4.5}
    assert not low


# Numbers.


def group(stem, name):
    root = ElementTree.fromstring(FILES[stem])
    return next(node for node in root.iter(f"{SVG}g") if node.get("id") == f"{stem}-{name}")


def texts(node):
    return ["".join(text.itertext()) for text in node.iter(f"{SVG}text")]


def rows(node):
    """Return the words of a group, a list for each height, from left to right."""
    by_height = {}
    for text in node.iter(f"{SVG}text"):
        by_height.setdefault(float(text.get("y")), []).append((float(text.get("x")), "".join(text.itertext())))
    return [[word for _, word in sorted(row)] for _, row in sorted(by_height.items())]


def letters(tensor, names):
    """Return a shape as it is printed, such as (B, T, C)."""
    return f"({', '.join(names[n] for n in tensor.shape)})"


@pytest.fixture(scope="module")
def small():
    """A Transformer of sizes that cannot be confused: three source words, four of the translation, C 10, H 5, V 7."""
    torch.manual_seed(0)
    sizes = {"source_vocab": 7, "target_vocab": 7, "d_model": 10, "n_heads": 5, "n_layers": 1, "d_ff": 16}
    return Transformer(TransformerConfig(**sizes)).eval()


@pytest.fixture(scope="module")
def base():
    """The paper's base model, without its numbers."""
    with torch.device("meta"):
        return Transformer(TransformerConfig(source_vocab=37_000, target_vocab=37_000))


READ, GIVEN = rows(group("transformer", "encoder"))[1], rows(group("transformer", "decoder"))[1]
WRITTEN = rows(group("transformer", "decoder"))[-1]


def test_the_decoder_is_given_what_it_writes_one_place_later():
    assert len(READ) == 3 and len(GIVEN) == 4
    assert GIVEN[0] == "start" and WRITTEN[-1] == "end"
    assert GIVEN[1:] == WRITTEN[:-1]


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_transformer_has_the_layers_of_the_library(base, part):
    layers, drawn = getattr(base, part), texts(group("transformer", part))
    kinds = {nn.LayerNorm: "add & norm", FeedForward: "feed-forward"}
    for kind, label in kinds.items():
        assert drawn.count(label) == sum(isinstance(module, kind) for module in layers[0].modules()), label
    attentions = [name for name, module in layers[0].named_modules() if isinstance(module, MultiHeadAttention)]
    assert [label for label in drawn if label.endswith("attention")] == {
        ("attention",): ["self-attention"],
        ("attention", "cross_attention"): ["causal self-attention", "cross-attention"],
    }[tuple(attentions)]
    assert drawn.count("N×") == 1 and "embedding · √C" in drawn


def test_transformer_prints_the_shapes_of_the_library(small):
    names = {2: "B", 3: "S", 4: "T", 10: "C", 7: "V"}
    source, target = torch.randint(1, 7, (2, 3)), torch.randint(1, 7, (2, 4))
    memory = small.encode(source)
    hidden = small.decode(target, memory)
    scores = small(source, target).logits
    parts = "encoder", "memory", "decoder"
    read, handed, written = ([t for t in texts(group("transformer", part)) if t[0] == "("] for part in parts)
    assert read == handed == [letters(memory.states, names)]
    assert written == [letters(hidden, names), letters(hidden, names), letters(scores, names)]


def test_transformer_prints_the_sizes_of_the_base_model(base):
    config = base.config
    assert len(base.encoder) == len(base.decoder) == config.n_layers
    assert dict(rows(group("transformer", "letters"))[1:]) == {
        "B": "sentences",
        "S": f"source words ({len(READ)} here)",
        "T": f"target words ({len(GIVEN)} here)",
        "C": f"width ({config.d_model})",
        "V": f"vocabulary ({config.source_vocab:,})",
        "N": f"layers ({config.n_layers}, twice)",
    }
    chapter = " ".join("".join(cell["source"]) for cell in CHAPTER["cells"])
    assert f"{config.source_vocab:,} tokens" in chapter, "the chapter counts with another vocabulary"


@pytest.fixture(scope="module")
def toy():
    """The arithmetic of the chapter's first example, from its own numbers."""
    cell = next((cell for cell in CHAPTER["cells"] if cell["id"] == "toy-attention"), None)
    assert cell, "the chapter has no cell toy-attention: which one has the numbers that attention.svg shows?"
    wanted = {"words", "x", "W_q", "W_k", "W_v"}
    assigned = [node for node in ast.parse("".join(cell["source"])).body if isinstance(node, ast.Assign)]
    lines = [node for node in assigned if getattr(node.targets[0], "id", None) in wanted]
    found = {"torch": torch}
    exec(compile(ast.Module(lines, []), "toy-attention", "exec"), found)
    x = found["x"]
    q, k, v = (x @ found[name] for name in ("W_q", "W_k", "W_v"))
    scores = q @ k.T / k.shape[1] ** 0.5
    weights = scores.softmax(1)
    tensors = {"x": x, "q": q, "k": k, "v": v, "scores": scores, "weights": weights, "output": weights @ v}
    return found["words"], tensors


def two_digits(tensor):
    return [[f"{value:.2g}" for value in row] for row in tensor.tolist()]


@pytest.mark.parametrize("name", ["x", "q", "k", "v", "scores", "weights", "output"])
def test_attention_shows_the_numbers_of_the_toy_cell(toy, name):
    assert rows(group("attention", name)) == two_digits(toy[1][name])


def test_attention_draws_its_weights_to_scale(toy):
    named, tensors = toy
    weights = two_digits(tensors["weights"])
    shades = [path.get("fill-opacity") for path in group("attention", "heat")]
    assert shades == sum(weights, [])
    bite = named.index("bite")
    assert texts(group("attention", "bite")) == [f"× {w}" for w in weights[bite]]
    widths = [path.get("stroke-width") for path in group("attention", "sum").iter(f"{SVG}path")]
    drawn = [float(width) for width in widths if width]
    assert drawn == pytest.approx([10 * float(w) for w in weights[bite]])
    dogs, d = named.index("dogs"), tensors["q"].shape[1]
    ask, offer = (tensors[t][i].int().tolist() for t, i in (("q", bite), ("k", dogs)))
    products = " + ".join(f"{a} · {b}" for a, b in zip(ask, offer, strict=True))
    line = f"bite asks dogs: ({products})/√{d} = {tensors['scores'][bite, dogs]:.2g}; d = {d}"
    assert line in texts(group("attention", "compare"))
    labels = texts(group("attention", "project"))
    assert [word for word in labels if word in named] == named == READ


def test_attention_tells_the_same_numbers_to_those_who_do_not_see_it(toy):
    named, tensors = toy
    bite = named.index("bite")
    weights, output = (two_digits(tensors[name])[bite] for name in ("weights", "output"))
    told = ElementTree.fromstring(FILES["attention"]).find(f"{SVG}desc").text
    assert f"for bite {', '.join(weights[:-1])} and {weights[-1]}" in told
    assert f"gives bite the vector {', '.join(output)}" in told


def test_heads_are_those_of_the_base_model(base):
    layer, config = base.encoder[0].attention, base.config
    columns = [node for node in group("heads", "heads") if node.tag == f"{SVG}g"]
    assert [texts(column) for column in columns] == [[str(i + 1)] for i in range(layer.n_heads)]
    C, H = config.d_model, config.n_heads
    assert f"base model: C = {C}, H = {H}, D = C/H = {C // H}; T = {len(READ)} here" in texts(group("heads", "sizes"))
    told = ElementTree.fromstring(FILES["heads"]).find(f"{SVG}desc").text
    assert f"{C} numbers each" in told and f"{layer.n_heads} slices of {C // H}" in told
    for matrix in (layer.query, layer.key, layer.value, layer.out):
        assert matrix.weight.shape == (C, C)  # the matrices are written as C × C


def test_heads_print_the_shapes_of_the_library(small):
    layer = small.encoder[0].attention
    B, T, C, H = 3, 4, 10, 5
    x = torch.randn(B, T, C)
    with capture_attention([layer]) as maps:
        y = layer(x)
    heads = layer.query(x).view(B, T, H, C // H).transpose(1, 2)
    names = {B: "B", T: "T", C: "C", H: "H", C // H: "D"}
    slices = letters(heads, names)
    expected = [letters(x, names), slices, letters(maps[0], names), slices, letters(y, names), letters(y, names)]
    assert texts(group("heads", "shapes")) == expected


def drawn_mask(name):
    """Return which cells of a grid are filled, and the words of its rows and columns."""
    node = group("three-attentions", name)
    columns, lines = (texts(child) for child in list(node.iter(f"{SVG}g"))[1:3])
    cells = [(float(r.get("y")), float(r.get("x"))) for r in node.iter(f"{SVG}rect") if "nw-d-seen" in r.get("class")]
    side = float(next(node.iter(f"{SVG}rect")).get("width"))
    top, left = min(y for y, _ in cells), min(x for _, x in cells)
    mask = torch.zeros(len(lines), len(columns), dtype=torch.bool)
    for y, x in cells:
        mask[round((y - top) / side), round((x - left) / side)] = True
    assert len(cells) == mask.sum()
    return mask, lines, columns


def test_three_attentions_are_where_the_library_looks(small):
    layers = {"encoder": small.encoder[0].attention, "decoder": small.decoder[0].attention}
    layers["cross"] = small.decoder[0].cross_attention
    rows_and_columns = {"encoder": (READ, READ), "decoder": (GIVEN, GIVEN), "cross": (GIVEN, READ)}
    with capture_attention(layers.values()) as maps:
        small(torch.tensor([[1, 2, 3]]), torch.tensor([[1, 4, 5, 6]]))
    for name, weights in zip(layers, maps, strict=True):
        mask, lines, columns = drawn_mask(name)
        assert (lines, columns) == rows_and_columns[name]
        assert torch.equal(weights[0].gt(0).all(0), mask) and torch.equal(weights[0].gt(0).any(0), mask), name


def test_masking_caches_what_the_library_caches(small):
    memory, target = small.encode(torch.tensor([[1, 2, 3]])), torch.tensor([[1, 4, 5, 6]])
    cache = small.new_cache()
    own, source = cache[0]
    for t, (asks, written) in enumerate(zip(GIVEN, WRITTEN, strict=True)):
        node = group("masking", str(t + 1))
        cells = " ".join(rect.get("class") for rect in node.iter(f"{SVG}rect"))
        count = {name: cells.count(f"nw-d-{name}") for name in ("kept", "new", "later")}
        before = own.length
        small.decode(target[:, t : t + 1], memory, cache)
        assert count == {"kept": before, "new": own.length - before, "later": len(GIVEN) - own.length}
        assert source.length == len(READ)  # computed at step 1, and no more
        assert texts(node) == [str(t + 1), asks, *["cached"] * before, "new", written]
        assert node.get("style") == f"--nw-d-t: {t}"


def test_dolly_shows_the_tokens_and_targets_of_the_library():
    file = data.fetch_file("smollm2")
    bpe = ByteBPE.from_gguf(file)
    ids, targets = ids_and_targets(Record("Name a fish.", "A trout."), bpe, bpe.special_tokens["<|im_end|>"])

    def name(token):
        return {"\n": "↵", "<|im_end|>": "<end>"}.get(bpe.decode([token]), bpe.decode([token]).strip())

    def listed(part):
        labels = ("frame", "instruction", "response")
        return [text for row in rows(group("dolly", part)) for text in row if text not in labels]

    drawn, below = (
        [text for half in ("first", "second") for text in listed(f"{half}{end}")] for end in ("", "-targets")
    )
    assert drawn == [*map(name, ids), "<end>"]
    assert below == [name(target) if target >= 0 else "–" for target in targets]


# CLIP: the vectors of pictures and texts share a space, so that both are drawn with the same parts.


def uses(part):
    """Return which parts a group of CLIP's drawing shows, with their places: (part, across, down)."""
    found = group("clip", part).iter(f"{SVG}use")
    return [(use.get("href")[6:], float(use.get("x", 0)), float(use.get("y", 0))) for use in found]


def vectors(part):
    """Return the vectors of a group as they are shaded, in the order in which pictures or texts stand."""
    root = ElementTree.fromstring(FILES["clip"])
    cells = {node.get("id"): [float(cell.get("fill-opacity", 0)) for cell in node] for node in root.iter(f"{SVG}g")}
    placed = sorted(uses(part), key=lambda use: abs(use[2]))  # a text's are turned: across is down, the other way round
    return nn.functional.normalize(torch.tensor([cells[f"clip-{name}"] for name, *_ in placed]), dim=-1)


def captions():
    """Return the captions, whose words stand below each other, from left to right."""
    columns = {}
    for text in group("clip", "captions").iter(f"{SVG}text"):
        columns.setdefault(float(text.get("x")), []).append((float(text.get("y")), text.text))
    return [" ".join(word for _, word in sorted(column)) for _, column in sorted(columns.items())]


def prompt():
    return next(text for text in texts(group("clip", "naming")) if "{}" in text)


@pytest.fixture(scope="module")
def learned():
    """The icons of a training that leaves Phosphor out, and the tokenizer that it gets."""
    split = icons.split_icons("Phosphor")
    return split, icons.caption_tokenizer(split.train)


@pytest.fixture(scope="module")
def clip(learned):
    torch.manual_seed(0)
    return CLIP(CLIPConfig(vocab_size=learned[1].vocab_size)).eval()


def test_clip_learns_from_icons_of_the_training(learned):
    split, words = learned
    assert set(captions()) <= {icon.caption for icon in split.train}
    assert not [caption for caption in captions() if 3 in words.encode(caption)]  # 3 is every unknown word
    pictures = [node for node in group("clip", "pictures") if node.tag == f"{SVG}g"]
    assert len(pictures) == len(captions()) == len(uses("picture-vectors")) == len(uses("text-vectors"))


def test_clip_compares_each_picture_with_each_text(learned, clip):
    n = len(captions())
    pairs = text_batch(captions(), learned[1], icons.END_ID, context_length=clip.config.context_length)
    pictures = torch.rand(n, 1, icons.SIZE, icons.SIZE)
    logits = clip(pictures, *pairs).logits
    cosines = clip.encode_pictures(pictures) @ clip.encode_texts(*pairs).T
    torch.testing.assert_close(logits, clip.scale() * cosines)
    written = texts(group("clip", "training"))
    assert f"{n} pictures, {n} texts:" in written and f"{logits.numel()} cosines · scale" in written
    drawn = uses("cosines")
    assert len(drawn) == logits.numel()
    down = [y for _, _, y in uses("picture-vectors")]
    across = [-y for _, _, y in uses("text-vectors")]
    for places, step in ((down, 36), (across, 45)):  # a row of cells for each picture, a column for each text
        assert places == [places[0] + step * i for i in range(n)]
    corner = drawn[0][1:]
    assert [place[1:] for place in drawn] == [
        (corner[0] + 45 * j, corner[1] + 36 * i) for i in range(n) for j in range(n)
    ]


def test_clip_lets_those_cosines_grow_whose_growth_lowers_the_loss():
    n = len(captions())
    logits = torch.randn(n, n, generator=torch.Generator().manual_seed(0), requires_grad=True)
    contrastive_loss(logits).backward()
    assert [name == "grow" for name, *_ in uses("cosines")] == logits.grad.lt(0).flatten().tolist()
    assert torch.equal(logits.grad < 0, torch.eye(n, dtype=torch.bool))  # the right pairs
    signs = {name: texts(node)[0] for name in ("grow", "shrink") for node in [group("clip", name)]}
    written = texts(group("clip", "training"))
    assert {f"{signs['grow']} right pair: grow", f"{signs['shrink']} others: shrink"} <= set(written)


def test_clip_has_the_two_softmaxes_of_the_loss():
    n = len(captions())
    logits = torch.randn(n, n, generator=torch.Generator().manual_seed(0))
    text, picture = (logits.softmax(dim).diag().log().mean() for dim in (1, 0))  # of each picture; of each text
    torch.testing.assert_close(contrastive_loss(logits), -(text + picture) / 2)
    labels = texts(group("clip", "softmax"))
    assert " ".join(labels) == "softmax: which text? softmax: which picture? loss: the mean of both cross-entropies"
    of_rows, of_columns = (path.get("d") for path in group("clip", "softmax").iter(f"{SVG}path"))
    assert of_rows.count("h5") == of_columns.count("v5") == n  # the ends of a bracket


def test_clip_draws_right_pairs_as_vectors_that_point_the_same_way():
    cosines = vectors("picture-vectors") @ vectors("text-vectors").T
    right = torch.arange(len(cosines))
    assert rank_of(cosines, right).eq(1).all() and rank_of(cosines.T, right).eq(1).all()


def test_clip_names_an_icon_of_a_designer_who_was_left_out(learned, clip):
    split, words = learned
    names, [answer, _] = rows(group("clip", "names"))[0], rows(group("clip", "answer"))[-1]
    assert answer in {icon.name for icon in split.seen} and answer not in " ".join(captions())
    styles = [f"{{}} {style}" for style in icons.STYLES]  # the chapter's prompts
    assert prompt() in styles
    assert not [name for name in names if 3 in words.encode(prompt().format(name))]
    classifier = name_vectors(clip, names, words, icons.END_ID, prompts=[prompt()])
    assert len(classifier) == len(uses("classifier")) == len(uses("scores"))
    assert [name for name, *_ in uses("classifier")] == names and [name for name, *_ in uses("new")] == [answer]


def test_clip_draws_the_cosines_of_its_vectors_to_scale():
    names, [answer, _] = rows(group("clip", "names"))[0], rows(group("clip", "answer"))[-1]
    cosines = vectors("new") @ vectors("classifier").T
    bars = [path.get("d") for path in group("clip", "scores").iter(f"{SVG}path")]
    assert [float(re.search(r"h([\d.]+)", bar)[1]) for bar in bars] == pytest.approx(
        (32 * cosines[0]).tolist(), abs=0.06
    )
    assert rank_of(cosines, torch.tensor([names.index(answer)])).tolist() == [1]
    green = [path.get("class") == "nw-d-val" for path in group("clip", "scores").iter(f"{SVG}path")]
    assert green == [name == answer for name in names]


def test_clip_tells_the_same_to_those_who_do_not_see_it():
    told = ElementTree.fromstring(FILES["clip"]).find(f"{SVG}desc").text
    for words in (captions(), rows(group("clip", "names"))[0]):
        assert f"{', '.join(words[:-1])} and {words[-1]}" in told
    assert prompt() in told and told.endswith(f"wins: {rows(group('clip', 'answer'))[-1][0]}.")


# PaLM-E: what the robot sees, to scale, and the places that its vectors take in the sentence.


def parts(name):
    """Return the shapes that a group of PaLM-E's drawing uses, the smallest ones, with their places: (part, x, y)."""
    root = ElementTree.fromstring(FILES["palm_e"])
    named = {node.get("id"): node for node in root.iter() if node.get("id")}

    def walk(node, x, y):
        for use in node.iter(f"{SVG}use"):
            part, at = use.get("href")[1:], (x + float(use.get("x", 0)), y + float(use.get("y", 0)))
            inner = list(walk(named[part], *at))
            yield from inner or [(part.removeprefix("palm_e-"), *at)]

    return list(walk(named[f"palm_e-{name}"], 0, 0))


def start(path):
    """Return the point where a path starts, across and down."""
    return [float(number) for number in re.match(r"M([\d.]+) ([\d.]+)", path.get("d")).groups()]


TILE, BORDER = 16, 8  # of the drawing: twice as large as the picture's pixels


def told():
    """Return the words of the prompt, which stand in two lines, from left to right, with their places."""
    found = [(float(text.get("x")), text.text) for text in group("palm_e", "words").iter(f"{SVG}text")]
    return sorted(found)


def predicted():
    return texts(group("palm_e", "answer"))[-1]


def drawn_tiles():
    """Return the robot's view as rows of letters: a wall, the floor, and what stands on it."""
    tiles = {(round((x - BORDER) / TILE), round((y - BORDER) / TILE)): part[0] for part, x, y in parts("view")}
    assert len(tiles) == len(parts("view"))
    ball, robot = group("palm_e", "view").iter(f"{SVG}path")
    assert ball.get("class") == "nw-d-ball"
    for letter, path in (("b", ball), ("r", robot)):
        x, y = (int((number - BORDER) // TILE) for number in start(path))
        tiles[x, y] = letter
    side = int(len(tiles) ** 0.5)
    return ["".join(tiles[x, y] for x in range(side)) for y in range(side)]


def ball_tile():
    return next((line.index("b"), y) for y, line in enumerate(drawn_tiles()) if "b" in line)


@pytest.fixture(scope="module")
def sighted():
    """A language model that reads pictures, with an encoder of the default size."""
    torch.manual_seed(0)
    config = DecoderConfig(vocab_size=9, context_length=32, d_model=8, n_heads=2, n_layers=1)
    return PictureLM(Decoder(config), PictureTokens(8)).eval()


def test_palm_e_shows_what_a_robot_of_the_expert_saw_and_did():
    colours = {(146, 146, 146): "w", (76, 76, 76): "f", (255, 76, 76): "b", (0, 0, 0): " "}  # " ": behind a wall
    views = {}
    for step in robots.demonstrations("GoToRedBallNoDists", 1, seed=30):
        tiles = [[colours[tuple(pixel)] for pixel in row] for row in step.frame[4::8, 4::8].tolist()]
        tiles[-1][len(tiles) // 2] = "r"  # red as well
        views["\n".join("".join(row) for row in tiles)] = step
    step = views["\n".join(drawn_tiles())]
    words = " ".join(word for _, word in told())
    assert words == f"Task: {step.mission}. Next step:"
    assert step.action == predicted() == robots.where(step, "red ball")
    x, y = ball_tile()
    side = len(drawn_tiles())
    assert step.things == {"red ball": (x - side // 2, side - 1 - y)}
    labels = texts(group("palm_e", "encoder"))
    assert f"{side} × {side} tiles," in labels and f"{robots.SIZE} × {robots.SIZE} pixels" in labels


def test_palm_e_draws_the_regions_and_vectors_of_the_encoder(sighted):
    encoder, size = sighted.encoder, sighted.encoder.size
    assert size == robots.SIZE
    grid = encoder.stem(torch.zeros(1, 3, size, size))
    side = grid.shape[-1]
    regions = {(round(x / TILE), round(y / TILE)) for _, x, y in parts("regions")}
    assert regions == {(x, y) for x in range(side) for y in range(side)} and len(parts("regions")) == side**2
    labels = texts(group("palm_e", "encoder"))
    assert f"three convolutions: {side} × {side} regions" in labels
    assert sum(isinstance(m, nn.Conv2d) and m.stride == (2, 2) for m in encoder.modules()) == 3
    outlined = list(group("palm_e", "regions").iter(f"{SVG}use"))
    made = encoder(torch.zeros(1, 3, size, size))[0]
    assert len(outlined) == len(parts("picture-vectors")) == len(made) == encoder.n_tokens
    ratio = len(regions) // encoder.n_tokens
    assert [part for part, *_ in parts("four")] == ["region"] * ratio


def test_palm_e_shades_the_regions_and_vectors_whose_pixels_show_the_ball(sighted):
    encoder = sighted.encoder
    x, y = ball_tile()
    picture = robots.as_pictures([torch.zeros(56, 56, 3, dtype=torch.uint8).numpy()])
    picture[:, :, 4 + 8 * y : 12 + 8 * y, 4 + 8 * x : 12 + 8 * x] = 1
    step = encoder.size // 8
    shown = nn.functional.max_pool2d(picture[0, 0][None], step)[0]
    assert {(round(x / TILE), round(y / TILE)) for _, x, y in parts("ball")} == {
        (x, y) for y, x in shown.nonzero().tolist()
    }
    vectors = nn.functional.max_pool2d(shown[None], 2)[0].flatten()  # row by row, as the encoder's vectors
    places = sorted(group("palm_e", "picture-vectors"), key=lambda use: float(use.get("x")))
    assert [use.get("fill-opacity") is None for use in places] == vectors.bool().tolist()


def test_palm_e_puts_the_vectors_into_one_sequence_and_predicts_at_words_alone(sighted):
    words = [word for _, word in told()]
    ids = torch.randint(9, (1, len(words)))
    pictures = torch.zeros(1, 3, sighted.encoder.size, sighted.encoder.size)
    sequence, logits = sighted.sentence(ids, pictures)[0], sighted(ids, pictures=pictures).logits[0]
    first, second = ([x + 4 for _, x, _ in parts(f"{part}-vectors")] for part in ("picture", "word"))
    assert second == [x for x, _ in told()]  # each word's vector below it
    assert first + second == sorted(first + second) and len(first + second) == len(sequence)
    root = ElementTree.fromstring(FILES["palm_e"])
    ticks = next(node for node in root.iter(f"{SVG}path") if node.get("id") == "palm_e-reads").get("d")
    assert [float(x) for x in re.findall(r"M([\d.]+)", ticks)] == first + second  # the model reads all of them
    torch.testing.assert_close(
        sequence - sighted.decoder.positions.weight[: len(sequence)],
        torch.cat([sighted.encoder(pictures), sighted.decoder.embedding(ids)], 1)[0],
    )
    [numbers] = rows(group("palm_e", "positions"))
    n = len(first)
    assert numbers == ["0", "+ position", f"{n - 1}", f"{n}", "+ position", f"{len(sequence) - 1}"]
    assert [x for _, x, _ in parts("silent")] == first and len(first) == len(sequence) - len(logits)
    out = next(group("palm_e", "answer").iter(f"{SVG}path"))
    assert start(out)[0] == second[-1] and texts(group("palm_e", "answer"))[1:] == ["predicted:", predicted()]


def test_palm_e_tells_the_same_to_those_who_do_not_see_it():
    said = ElementTree.fromstring(FILES["palm_e"]).find(f"{SVG}desc").text
    words = [word for _, word in told()]
    side, n = len(drawn_tiles()), len(parts("picture-vectors"))
    assert f"{side} by {side} tiles" in said and f'"{" ".join(words)}"' in said
    assert f"{n} vectors of the picture" in said and f"before {len(words)} of the words" in said
    assert f"from 0 to {n + len(words) - 1}" in said and said.endswith(f'predicts "{predicted()}".')


# The neural n-gram: the sizes of the chapter's network.


def described(stem):
    return ElementTree.fromstring(FILES[stem]).find(f"{SVG}desc").text


def parsed_cell(chapter, id):
    """Return the syntax tree of a chapter's cell."""
    cells = json.loads((ROOT / "chapters" / f"{chapter}.ipynb").read_text(encoding="utf8"))["cells"]
    found = next((cell for cell in cells if cell["id"] == id), None)
    assert found, f"{chapter} has no cell {id}: which one has the numbers that are drawn?"
    return ast.parse("".join(found["source"]))


def assigned(tree, name):
    return next(n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == name)


@pytest.fixture(scope="module")
def bengio():
    """The network of the chapter, without its numbers, and as the paper has it: with an output of its own."""
    sizes = ast.literal_eval(assigned(parsed_cell("2003_next_word", "train-function"), "sizes"))
    words = parsed_cell("2003_next_word", "words")
    calls = [n for n in ast.walk(words) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "most_common"]
    frequent = ast.literal_eval(calls[0].args[0])
    special = [n for n in assigned(words, "vocabulary").elts if not isinstance(n, ast.Starred)]  # <unk>
    with torch.device("meta"):
        return NeuralNGram(NeuralNGramConfig(vocab_size=frequent + len(special), **sizes)).eval()


def widths(name):
    return [float(rect.get("width")) for rect in group("bengio", name).iter(f"{SVG}rect")]


def test_bengio_has_the_sizes_of_the_chapter(bengio):
    n, (V, m) = bengio.config.order - 1, bengio.C.weight.shape
    words = texts(group("bengio", "words"))
    assert len(words) == n == 4 and "the same table for all four places" in texts(group("bengio", "table"))
    assert texts(group("bengio", "vectors")) == [f"C({word})" for word in words]
    assert f"{V:,} words, a row of {m} numbers each" in texts(group("bengio", "table"))
    assert f"{n} × {m} = {bengio.H.in_features}" in texts(group("bengio", "x"))
    assert f"{bengio.H.out_features} tanh units" in texts(group("bengio", "hidden"))
    y = bengio(torch.zeros(1, n, dtype=torch.int64, device="meta")).logits
    assert texts(group("bengio", "scores")) == [f"y: {y.shape[-1]:,} scores"]
    assert bengio.UW.in_features == bengio.H.out_features + bengio.H.in_features  # U, and the direct connections W
    [path] = group("bengio", "direct").iter(f"{SVG}path")
    assert "nw-d-dash" in path.get("class") and texts(group("bengio", "direct")) == ["W"]
    assert widths("hidden")[0] / widths("x")[0] == bengio.H.out_features / bengio.H.in_features  # to scale


def test_bengio_shows_example_words_without_numbers():
    examples, bars = texts(group("bengio", "examples")), next(group("bengio", "next").iter(f"{SVG}path")).get("d")
    heights = [int(height) for height in re.findall(r"v-(\d+)", bars)]
    assert len(examples) == len(heights) and heights == sorted(heights, reverse=True)
    assert not re.search(r"\d", "".join(texts(group("bengio", "next"))))


def test_bengio_tells_the_same_to_those_who_do_not_see_it(bengio):
    told, (V, m) = described("bengio"), bengio.C.weight.shape
    assert f'"{" ".join(texts(group("bengio", "words")))}"' in told
    for said in (
        f"a row of {m} numbers for each of {V:,} words",
        f"x, {bengio.H.in_features} numbers",
        f"{V:,} scores",
    ):
        assert said in told
    assert f"from x to {bengio.H.out_features} tanh units" in told
    best, *others = texts(group("bengio", "examples"))
    assert told.endswith(f"{best} is the highest, then {', then '.join(others)}.")


# Encoder and decoder: what reaches the decoder, and who asks whom.

PARTNERS = {"el": "the", "gato": "cat", "negro": "black"}


def drawn(half, name):
    return texts(group("seq2seq", f"{half}-{name}"))


def across(half, name):
    """Return where the labels of a group stand, from left to right."""
    return [float(text.get("x")) for text in group("seq2seq", f"{half}-{name}").iter(f"{SVG}text")]


def ends(path):
    """Return across where a path begins and where it ends, which is also its last point."""
    numbers = re.findall(r"-?[\d.]+", path.get("d"))
    return float(numbers[0]), float(numbers[-2] if len(numbers) > 3 else numbers[0])  # V: straight up


@pytest.fixture(scope="module", params=["none", "bahdanau"])
def translator(request):
    """A translator of one layer, what its encoder makes of three words, and what its decoder writes."""
    torch.manual_seed(0)
    sizes = {"source_vocab": 9, "target_vocab": 9, "d_model": 8, "n_layers": 1, "output_norm": False}
    model = Seq2SeqLSTM(Seq2SeqConfig(**sizes, attention=request.param)).eval()
    memory, target = model.encode(torch.tensor([[1, 2, 3]])), torch.tensor([[4, 5, 6]])
    return model, memory, target, *model.decode_with_attention(target, memory)


def test_seq2seq_reads_and_writes_what_the_library_does(translator):
    model, memory, target, states, _ = translator
    half = model.config.attention
    assert drawn(half, "h") == ["h₁", "h₂", "h₃"][: memory.states.shape[1]]
    read, written = drawn(half, "read"), drawn(half, "written")
    assert len(read) == memory.states.shape[1] and len(written) == target.shape[1]
    assert {PARTNERS[word] for word in written} == set(read)
    assert drawn(half, "s")[-states.shape[1] :] == ["s₁", "s₂", "s₃"]
    told = described("seq2seq")
    assert f'reads "{" ".join(read)}"' in told and f'writes "{" ".join(written)}"' in told


def test_seq2seq_hands_over_the_last_state_alone_without_attention(translator):
    model, memory, target, states, _ = translator
    assert torch.equal(memory.last, memory.states[:, -1])
    others = memory._replace(states=torch.randn_like(memory.states), keys=torch.randn_like(memory.keys))
    same = torch.equal(model.decode_with_attention(target, others)[0], states)
    assert same == (model.config.attention == "none")
    [vector] = [t.text for t in group("seq2seq", "none").iter(f"{SVG}text") if t.get("id") == "seq2seq-none-vector"]
    assert vector == drawn("none", "h")[-1]
    lines = [ends(path) for path in group("seq2seq", "none-lines")]
    assert len(lines) == len(drawn("none", "s"))  # to each decoder state
    assert all(abs(end - x) < 14 for (_, end), x in zip(lines, across("none", "s"), strict=True))


def test_seq2seq_looks_from_each_word_at_all_encoder_states():
    h, c, lines = across("bahdanau", "h"), across("bahdanau", "contexts"), list(group("seq2seq", "bahdanau-lines"))
    pairs = [(source, context) for context in c for source in h]
    for path, (source, context) in zip(lines, pairs, strict=True):
        start, end = ends(path)
        assert abs(start - source) < 14 and abs(end - context) < 14
    thick = torch.tensor([float(path.get("stroke-width")) for path in lines]).view(len(c), len(h))
    torch.testing.assert_close(thick.sum(1), torch.full((len(c),), 6.0))  # 6 α, and the α of a word sum to 1
    looked = [drawn("bahdanau", "read")[j] for j in thick.argmax(1)]
    assert looked == [PARTNERS[word] for word in drawn("bahdanau", "written")] and thick.amax(1).gt(4).all()
    assert drawn("bahdanau", "contexts") == ["c₁", "c₂", "c₃"]
    told = described("seq2seq")
    assert all(f"from {source} to {word}" in told for word, source in PARTNERS.items())
    assert "c₂ = α₂₁h₁ + α₂₂h₂ + α₂₃h₃" in texts(group("seq2seq", "bahdanau"))[-1]


def test_seq2seq_asks_with_the_state_before(translator):
    model, memory, _, states, weights = translator
    if model.attention is None:
        return
    queries = torch.cat([memory.last[:, None], states[:, :-1]], 1)  # s₀ = h₃, then s₁ and s₂
    torch.testing.assert_close(model.attention(queries, memory)[1], weights)
    assert drawn("bahdanau", "s")[0] == f"s₀ = {drawn('bahdanau', 'h')[-1]}"
    arrows = [ends(path) for path in group("seq2seq", "bahdanau-queries")]
    asking, contexts = across("bahdanau", "s")[:-1], across("bahdanau", "contexts")
    for (start, end), state, context in zip(arrows, asking, contexts, strict=True):
        assert 0 < start - state < 26 and 26 <= context - end < 29  # from its lower edge to the left of the context


# Beam search: every number and every survivor, from the library with the probabilities that are drawn.


WIDE, HIGH, GAP = 86, 40, 18  # a box of the beam, and the way to the next


def stages():
    """Return for each stage of the drawing its boxes, by the words of their hypotheses: arrows lead from word to word."""
    at, found = {}, []  # at: the hypothesis behind a point from which arrows start
    for number in range(1, 5):
        boxes, stage, before = {}, group("beam", str(number)), {}
        for path in stage.iter(f"{SVG}path"):
            x, y, _, *turn = map(
                float, re.findall(r"[\d.]+", path.get("d"))
            )  # right, maybe up or down, and right again
            before[x + GAP, turn[0] if "V" in path.get("d") else y] = at[x, y]
        for node in stage.iter(f"{SVG}g"):
            if not node.get("transform"):
                continue
            x, y = map(float, re.findall(r"[\d.]+", node.get("transform")))
            word, p, *rest = texts(node)
            words = (*before.get((x, y + HIGH / 2), ()), word)
            at[x + WIDE, y + HIGH / 2] = words
            shapes = [use.get("href") for use in node.iter(f"{SVG}use")]
            fate = "out" if "#beam-cross" in shapes else "finished" if "#beam-end" in shapes else "kept"
            assert (fate == "kept") == ("nw-d-kept" in node.get("class"))
            numbers = [text.replace("−", "-") for text in rest if text[0] == "−"]
            boxes[words] = {"p": p, "fate": fate, "numbers": numbers, "label": "" if rest[-1][0] == "−" else rest[-1]}
        found.append(boxes)
    return found


@pytest.fixture(scope="module")
def searched():
    """The search with the drawn probabilities: what went on after each step, and the results of beam and greedy."""
    drawn_p = {words: float(box["p"]) for boxes in stages() for words, box in boxes.items()}
    names = ["end", *sorted({words[-1] for words in drawn_p} - {"end"})]
    asked = []

    def step(ids):
        hypotheses = [tuple(names[i] for i in row[1:]) for row in ids.tolist()]
        asked.append(set(hypotheses))
        p = [[drawn_p.get((*hypothesis, name), 0.0) for name in names] for hypothesis in hypotheses]
        return torch.tensor(p).log()

    def search(**settings):
        asked.clear()
        found = beam_search(step, 0, 0, max_length=len(stages()), **settings)
        return [(tuple(names[i] for i in h.ids), h.log_prob, h.score) for h in found], list(asked)

    return drawn_p, search(beam=2, alpha=1.0), search(beam=1, alpha=0.0), search(beam=2, alpha=0.0)


def test_beam_keeps_and_drops_what_the_library_does(searched):
    drawn_p, (best, asked), *_ = searched
    for number, boxes in enumerate(stages()):
        # all continuations of what went on are drawn, and their probabilities sum to 1
        assert {words[:-1] for words in boxes} == asked[number]
        for parent in asked[number]:
            assert sum(drawn_p[words] for words in boxes if words[:-1] == parent) == pytest.approx(1)
        kept = {words for words, box in boxes.items() if box["fate"] == "kept"}
        assert kept == (asked[number + 1] if number + 1 < len(asked) else set())
        # what ends among the two best is finished, and everything else is out
        total = {words: math.prod(drawn_p[words[: i + 1]] for i in range(len(words))) for words in boxes}
        two = sorted(boxes, key=total.get)[-2:]
        finished = {words for words, box in boxes.items() if box["fate"] == "finished"}
        assert finished == {words for words in two if words[-1] == "end"}
        assert {box["fate"] for words, box in boxes.items() if words not in kept | finished} <= {"out"}
    assert {words for words, *_ in best} <= {words for boxes in stages() for words in boxes}


def test_beam_prints_the_numbers_of_the_library(searched):
    drawn_p, (best, _), *_ = searched
    by_library = {words: (log_prob, score) for words, log_prob, score in best}
    assert {words for words in by_library if len(words) == 3} and len(by_library) == 2
    for boxes in stages():
        for words, box in boxes.items():
            log_prob = sum(math.log(drawn_p[words[: i + 1]]) for i in range(len(words)))
            score = log_prob / length_penalty(len(words), alpha=1.0)
            if words in by_library:
                assert by_library[words] == pytest.approx((log_prob, score))
            both = [log_prob, score] if box["fate"] == "finished" else [log_prob]
            assert box["numbers"] == [f"{number:.2f}" for number in both], words
    assert length_penalty(7, 3.0) == pytest.approx(((5 + 7) / 6) ** 3)
    assert "log P / ((5 + |Y|)/6)^α, α = 1" in " ".join(texts(group("beam", "3")))


def test_beam_finds_what_greedy_decoding_misses(searched):
    _, (best, _), (greedy, _), (by_log_p, _) = searched
    labels = {box["label"]: words for boxes in stages() for words, box in boxes.items() if box["label"]}
    assert labels == {"set aside": ("el", "gato", "end"), "greedy": greedy[0][0], "wins": best[0][0]}
    assert greedy[0][1] < best[0][1]  # less likely, whatever the lengths
    assert by_log_p[0][0] == labels["set aside"]  # and by log P alone the shorter one would win
    last = " ".join(texts(group("beam", "4")))
    assert f"wins: {' '.join(best[0][0][:-1])}." in last and f"each time: {' '.join(greedy[0][0][:-1])}." in last


def test_beam_tells_the_same_to_those_who_do_not_see_it():
    told, (*steps, last) = described("beam").replace("−", "-"), stages()
    for boxes in steps:
        for words, box in boxes.items():
            assert re.search(rf"{' '.join(words)} \((log P )?{box['numbers'][0]}\)", told), words
    by_label = {box["label"]: box["numbers"][-1] for boxes in (*steps, last) for box in boxes.values()}
    assert f"set aside with the score {by_label['set aside']}" in told
    assert f"greedy decoding would have written, has the score {by_label['greedy']}" in told
    assert f"has {by_label['wins']} and is the winner" in told


def test_beam_says_in_words_what_happens_in_each_stage():
    for number in range(1, 5):
        stage = group("beam", str(number))
        assert stage.get("class") == "nw-d-stage" and stage[-1].tag == f"{SVG}g"
        assert all(child.tag == f"{SVG}text" for child in stage[-1]) and texts(stage[-1])  # the name of its button
        assert f"step {number}" in texts(stage)


# GPT-2: tasks as texts.

TASKS = {"summarise": "TL;DR:", "translate": "good night =", "answer": "A:"}


def test_gpt2_is_asked_by_text_alone():
    root = ElementTree.fromstring(FILES["gpt2"])
    arrows = [use for use in root.iter(f"{SVG}use") if use.get("href") == "#gpt2-through"]
    assert len(arrows) == len(TASKS)  # each goes through the one model
    assert texts(group("gpt2", "model"))[0] == "GPT-2"
    for task, cue in TASKS.items():
        *_, last = texts(group("gpt2", task))
        assert last == cue and texts(group("gpt2", f"{task}-answer"))
    copies = texts(group("gpt2", "copies"))
    assert [label.split()[-1].removesuffix("s") for label in copies] == list(TASKS)
    assert "no labels, no gradient" in texts(group("gpt2", "before"))


def test_gpt2_shows_examples_of_one_form_and_cuts_the_last_before_its_answer():
    *examples, asked = texts(group("gpt2", "translate"))
    assert all(re.fullmatch(r"[a-z ]+ = \w[\w ]+", line) for line in examples)
    assert re.fullmatch(r"[a-z ]+ =", asked)


def test_gpt2_tells_the_same_to_those_who_do_not_see_it():
    told = described("gpt2")
    assert f'ends in "{TASKS["summarise"]}"' in told
    for task, join in (("translate", ", "), ("answer", " ")):
        asked, answered = texts(group("gpt2", task)), texts(group("gpt2", f"{task}-answer"))
        assert f'"{join.join(asked)}" by "{" ".join(answered)}"' in told
    assert told.endswith("no labels, no gradient.")


# GNMT: which layer reads which way, adds its input, asks, and is answered.


def layer_rows(half):
    """Return for each drawn layer, by its number from below, its height and the parts that it uses."""
    found = {}
    for node in group("gnmt", half).iter(f"{SVG}g"):
        if numbered := re.fullmatch(rf"gnmt-{half}-(\d+)", node.get("id", "")):
            y = float(re.search(r"translate\(\d+ (\d+)\)", node.get("transform"))[1])
            found[int(numbered[1])] = y, [use.get("href")[6:] for use in node.iter(f"{SVG}use")]
    return found


@pytest.fixture(scope="module")
def gnmt():
    """The paper's stacks, narrow, what goes into each decoder layer but its context, what comes out, and the rest."""
    torch.manual_seed(0)
    sizes = {"source_vocab": 9, "target_vocab": 9, "d_model": 8, "n_layers": 8, "output_norm": False}
    model = Seq2SeqLSTM(Seq2SeqConfig(**sizes, attention="bahdanau", residual_from=3)).eval()
    seen = {}

    def keep(name):
        return lambda _, given, made: seen.setdefault(name, []).append((given[0][..., :8], made[0]))

    for half, first in (("encoder", 2), ("decoder", 1)):
        for number, layer in enumerate(getattr(model, half), start=first):
            layer.register_forward_hook(keep((half, number)))
    memory = model.encode(torch.tensor([[1, 2, 3]]))
    top, weights = model.decode_with_attention(torch.tensor([[4, 5, 6]]), memory)
    passed = {name: [torch.cat(x, 1) for x in zip(*calls, strict=True)] for name, calls in seen.items()}
    return model, passed, memory, top, weights


def test_gnmt_has_the_layers_of_the_library(gnmt):
    model, *_ = gnmt
    n = model.config.n_layers
    encoder, decoder = layer_rows("encoder"), layer_rows("decoder")
    assert rows(group("gnmt", "numbers")) == [[str(k), str(k)] for k in range(n, 0, -1)]
    assert list(encoder) == list(decoder) == list(range(len(model.decoder), 0, -1))
    both_ways = [k for k, (_, used) in encoder.items() if "back" in used]
    assert both_ways == [1] and len(encoder) - len(both_ways) == len(model.encoder)
    assert not any("back" in used for _, used in decoder.values())
    assert all("on" in used for _, used in (*encoder.values(), *decoder.values()))
    word = torch.tensor([[1, 2, 3], [1, 2, 4]])  # only a layer that reads from the right sees the last one at the first
    x = model.source_embedding(word)
    assert torch.equal(*model.forward_lstm(x)[0][:, 0]) and not torch.equal(*model.backward_lstm(x.flip(1))[0][:, -1])


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_gnmt_adds_the_input_where_a_loop_is_drawn(gnmt, half):
    _, passed, memory, top, _ = gnmt
    for number, (_, used) in layer_rows(half).items():
        if (half, number) == ("encoder", 1):
            assert "loop" not in used
            continue
        given, made = passed[half, number]
        up = passed[half, number + 1][0] if number < 8 else {"encoder": memory.states, "decoder": top}[half]
        torch.testing.assert_close(up, given + made if "loop" in used else made)
        assert ("loop" in used) == (number >= 3)
    assert any("from layer 3 on" in line for line in texts(group("gnmt", "notes")))


def test_gnmt_asks_with_the_bottom_layer_and_gives_the_context_to_all(gnmt):
    model, passed, memory, _, weights = gnmt
    queries = torch.cat([memory.last[:, None], passed["decoder", 1][1][:, :-1]], 1)
    torch.testing.assert_close(model.attention(queries, memory)[1], weights)
    decoder = layer_rows("decoder")
    [asks] = [node for node in group("gnmt", "attention").iter(f"{SVG}path") if node.get("id") == "gnmt-asks"]
    assert decoder[2][0] < start(asks)[1] < decoder[1][0], "it starts above the bottom layer"
    top, _ = layer_rows("encoder")[8]
    [read] = [node for node in group("gnmt", "attention").iter(f"{SVG}path") if node.get("id") == "gnmt-memory"]
    assert [float(y) for y in re.findall(r"M[\d.]+ ([\d.]+)", read.get("d"))] == [top] * 3
    _, *arrows = group("gnmt", "context").iter(f"{SVG}path")
    answered = [k for k, layer in enumerate(model.decoder, start=1) if layer.input_size == 2 * model.config.d_model]
    assert sorted(start(arrow)[1] - 9 for arrow in arrows) == sorted(decoder[k][0] for k in answered)


def test_gnmt_reads_and_writes_wordpieces_and_tells_the_same():
    read, given, written = (texts(group("gnmt", name)) for name in ("read", "given", "written"))
    assert given[0] == "start" and given[1:] == written[:-1] and len(read) == 3
    assert read[0][0] == written[0][0] == "_" and not read[1].startswith("_")  # as in the paper: "_" begins a word
    said = described("gnmt")
    for pieces in (read, given, written):
        assert f"{', '.join(pieces[:-1])} and {pieces[-1]}" in said
    above = len(layer_rows("encoder")) - 1
    assert f"the {['', 'one', 'two', 'three', 'four', 'five', 'six', 'seven'][above]} above it" in said
    gpus = f"over {len(layer_rows('decoder'))} GPUs"
    assert gpus in said and gpus in " ".join(texts(group("gnmt", "notes")))


# GPT-1: a head is swapped.


def code_of(chapter):
    """Yield the syntax tree of every cell of a chapter that is plain Python."""
    for cell in json.loads((ROOT / "chapters" / f"{chapter}.ipynb").read_text(encoding="utf8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not re.search(r"^\s*[%!]", source, re.MULTILINE):
            yield ast.parse(source)


@pytest.fixture(scope="module")
def gpt1():
    with torch.device("meta"):
        return Decoder(DecoderConfig.preset("gpt1"))


def test_gpt1_has_the_sizes_of_the_preset_and_one_table(gpt1):
    first = texts(group("gpt1", "1"))
    assert f"{gpt1.embedding.num_embeddings:,} embeddings" in first and "head: embeddings, tied" in first
    assert gpt1.output.weight is gpt1.embedding.weight
    [label] = [text for text in texts(group("gpt1", "decoder")) if "layers" in text]
    assert label == f"{len(gpt1.blocks)} layers"
    read, following = texts(group("gpt1", "read")), texts(group("gpt1", "next"))
    assert following[:-1] == read[1:]


def test_gpt1_shows_a_question_of_the_data_with_its_label():
    drawn_label = texts(group("gpt1", "classes"))[0]
    begin, *words, end = texts(group("gpt1", "question"))
    labels = {question.text: question.label for question in data.load_trec("train")}
    label = labels[" ".join(words)]
    assert data.TREC_LABELS[label] == drawn_label
    filled, cells = (path.get("d") for path in group("gpt1", "classes").iter(f"{SVG}path"))
    assert cells.count("M") == len(data.TREC_LABELS)
    assert cells.split("M")[1:].index(filled.removeprefix("M")) == label
    head = next(node for node in group("gpt1", "2").iter() if node.get("id") == "gpt1-head")
    assert head.text == f"new head: {len(data.TREC_LABELS)} rows"
    assert texts(group("gpt1", "new")) == [begin, end] and texts(group("gpt1", "targets")) == [*words, end]


def test_gpt1_puts_the_tokens_around_a_text_that_the_chapter_puts_there():
    trees = [node for tree in code_of("2018_gpt1") for node in ast.walk(tree)]
    made = next(node for node in trees if isinstance(node, ast.FunctionDef) and node.name == "one_text")
    begin, text, end = next(node for node in ast.walk(made) if isinstance(node, ast.List)).elts
    assert isinstance(text, ast.Starred)
    assert [begin.id.lower(), end.id.lower()] == texts(group("gpt1", "new"))


def test_gpt1_weighs_the_auxiliary_loss_as_the_chapter_does():
    trees = [node for tree in code_of("2018_gpt1") for node in ast.walk(tree)]
    weights = {node.value.value for node in trees if isinstance(node, ast.keyword) and node.arg == "aux"}
    [label] = [text for text in texts(group("gpt1", "aux")) if "λ" in text]
    assert {float(label.split(" = ")[1])} == weights
    assert described("gpt1").endswith(f"with the weight {label.split('weight ')[1]}.")


def test_gpt1_says_in_words_what_happens_in_each_stage():
    for number, said in enumerate(("pre-train", "swap the head", "fine-tune"), start=1):
        stage = group("gpt1", str(number))
        assert stage.get("class") == "nw-d-stage"
        assert texts(stage[-1])[0] == said  # the name of its button
        assert str(number) in texts(stage)


def test_gpt1_tells_the_same_to_those_who_do_not_see_it(gpt1):
    said = described("gpt1")
    read, following, question = (texts(group("gpt1", name)) for name in ("read", "next", "question"))
    assert f"reads {' '.join(read)} and predicts {' '.join(following)};" in said
    assert f"{' '.join(question)} goes in" in said and f"one of {len(data.TREC_LABELS)} labels" in said
    assert f"decoder of {len(gpt1.blocks)} layers" in said
    assert f"{gpt1.embedding.num_embeddings:,} rows" in said and f"say {texts(group('gpt1', 'classes'))[0]}," in said


# BERT: what goes in is a sum, and what comes out sees both sides.


@pytest.fixture(scope="module")
def pair():
    """The pair of texts that is drawn, as the library encodes it, and its tokenizer."""
    wordpiece, tokens = WordPiece.bert(), texts(group("bert", "tokens"))
    hidden = [texts(group("bert", "hidden"))[1] if token == "[MASK]" else token for token in tokens]
    a, b = (text.split() for text in " ".join(hidden[1:-1]).split("[SEP]"))
    return wordpiece, hidden, wordpiece.encode(" ".join(a), " ".join(b))


def test_bert_shows_the_tokens_and_segments_of_the_library(pair):
    wordpiece, hidden, encoding = pair
    tokens = texts(group("bert", "tokens"))
    assert [wordpiece.tokens[i] for i in encoding.ids] == hidden
    assert set(tokens) & {"[CLS]", "[SEP]", "[MASK]"} <= set(wordpiece.NAMES)
    assert [i for i, token in enumerate(tokens) if token == "[MASK]"] == [2] and not encoding.special[2]
    predicted_word = texts(group("bert", "hidden"))[1]
    assert texts(ElementTree.fromstring(FILES["bert"])).count(predicted_word) == 2  # below [MASK], and on top
    segments = texts(group("bert", "segments"))
    assert segments == ["AB"[segment] for segment in encoding.segments]
    assert segments.index("B") == tokens.index("[SEP]") + 1
    assert texts(group("bert", "positions")) == [str(i) for i in range(len(encoding.ids))]


def test_bert_adds_the_three_embeddings_of_the_library(pair):
    torch.manual_seed(0)
    wordpiece, _, encoding = pair
    sizes = {"vocab_size": wordpiece.vocab_size, "context_length": 16, "d_model": 8, "n_layers": 1, "n_heads": 2}
    encoder, added = Encoder(EncoderConfig(**sizes)).eval(), []
    encoder.embedding_norm.register_forward_hook(lambda _, given, made: added.append(given[0]))
    ids, segments = torch.tensor([encoding.ids]), torch.tensor([encoding.segments])
    with capture_attention(encoder.modules()) as maps:
        hidden, pooled = encoder(ids, segments)
    tables = {"token": ids, "segment": segments, "position": torch.arange(ids.shape[1])}
    modules = {"token": encoder.embedding, "segment": encoder.segments, "position": encoder.positions}
    torch.testing.assert_close(added[0], sum(modules[name](tables[name]) for name in tables))
    words = texts(ElementTree.fromstring(FILES["bert"]))
    assert all(words.count(name) == 1 for name in tables)
    assert words.count("+") == (len(tables) - 1) * ids.shape[1]
    # every position reaches that of [MASK] and that of [CLS], which the pooler reads
    torch.testing.assert_close(pooled, encoder.pooler(hidden[:, 0]).tanh())
    at = [float(text.get("x")) for text in group("bert", "tokens").iter(f"{SVG}text")]
    for name, place in (("sides", texts(group("bert", "tokens")).index("[MASK]")), ("pooled", 0)):
        lines = [re.findall(r"[\d.]+", path.get("d")) for path in group("bert", name).iter(f"{SVG}path")]
        assert maps[0][0, :, place].gt(0).all()
        assert [float(x) for x, *_ in lines] == at and {float(x) for *_, x, _ in lines} == {at[place]}


def test_bert_prints_the_numbers_of_the_library():
    with torch.device("meta"):
        model = MaskedLM(Encoder(EncoderConfig.preset("bert-base")))
    assert f"{model.output.out_features:,} scores" in texts(group("bert", "hidden"))
    assert f"pooler, {model.next_sentence.out_features} scores" in texts(group("bert", "follows"))
    usual = {name: p.default for name, p in inspect.signature(mask_tokens).parameters.items()}
    rate, (masked, kept, other) = usual["rate"], usual["mix"]
    rule = f"{rate:.0%} of the tokens are chosen: {masked:.0%} of these become [MASK], {kept:.0%} stay as they are, {other:.0%} become any token."
    assert " ".join(texts(group("bert", "rule"))) == rule.replace("%", " %")


def test_bert_tells_the_same_to_those_who_do_not_see_it(pair):
    said, segments = described("bert"), texts(group("bert", "segments"))
    assert f"tokens, {' '.join(texts(group('bert', 'tokens')))};" in said
    numbers = ["no", "one", "two", "three", "four", "five", "six"]
    assert ", ".join(f"{numbers[segments.count(x)]} times {x}" for x in "AB").replace(", three", " and three") in said
    assert f"from 0 to {len(segments) - 1}" in said
    assert f"[MASK] hides {texts(group('bert', 'hidden'))[1]}." in said
    assert re.findall(r"\d+ %", said) == re.findall(r"\d+ %", " ".join(texts(group("bert", "rule"))))


# Sparse attention: cells, pairs, and a path of two steps.

PLACES, STRIDE = 16, 4
PATTERNS = {
    "dense": SparsePattern("dense"),
    "strided": SparsePattern("strided", stride=STRIDE),
    "fixed": SparsePattern("fixed", stride=STRIDE),
}


def cells_of(kind):
    """Return the cells of a matrix by their colour, as masks."""
    found = {}
    frame = next(group("sparse", kind).iter(f"{SVG}use"))
    left, top = float(frame.get("x")), float(frame.get("y"))
    for path in group("sparse", kind).iter(f"{SVG}path"):
        mask = found[path.get("class").split()[-1]] = torch.zeros(PLACES, PLACES, dtype=torch.bool)
        for x, y, long in re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)", path.get("d")):
            row, column, many = (float(y) - top - 3.5) / 7, (float(x) - left) / 7, float(long) / 7
            mask[round(row), round(column) : round(column + many)] = True
            assert row % 1 == column % 1 == many % 1 == 0
    return found


def position_of(x):
    return round((float(x) - 20) / 24)


def steps(part):
    """Return from where to where the lines of a group lead, as positions."""
    lines = (re.findall(r"[\d.]+", path.get("d")) for path in group("sparse", part).iter(f"{SVG}path"))
    return [(position_of(x), position_of(to)) for x, _, to, _ in lines]


@pytest.mark.parametrize("kind", PATTERNS)
def test_sparse_draws_the_masks_of_the_library_and_counts_their_pairs(kind):
    found, pattern = cells_of(kind), PATTERNS[kind]
    assert torch.equal(sum(found.values()).bool(), pattern.mask(PLACES))
    assert sum(int(mask.sum()) for mask in found.values()) == pattern.mask(PLACES).sum(), "no cell is drawn twice"
    if kind != "dense":
        first, second = (SparsePattern(kind, stride=STRIDE, heads="split").mask(PLACES, head) for head in (0, 1))
        assert torch.equal(found["nw-d-key-line"], first) and torch.equal(found["nw-d-ask-line"], second & ~first)
    pairs = int(pattern.mask(PLACES).sum())
    assert f"{pairs} pairs" in texts(group("sparse", kind))
    assert re.search(rf"{kind} with {pairs}\b", described("sparse"))
    ticks = [str(i) for i in range(0, PLACES, STRIDE)]
    assert texts(group("sparse", kind))[1 : 1 + len(ticks)] == texts(group("sparse", "rows")) == ticks
    assert f"the last {STRIDE}; fixed: the own block of {STRIDE}" in " ".join(texts(group("sparse", "legend")))


def test_sparse_leads_through_two_layers_to_every_earlier_position():
    last, every = (SparsePattern("strided", stride=STRIDE, heads="split").mask(PLACES, head) for head in (0, 1))
    [asks] = map(int, texts(group("sparse", "asks")))
    middle = [int(text) for text in texts(group("sparse", "middle"))]
    (begin, via), (via_too, end) = steps("one")
    assert (begin, via) == (asks, via_too)
    upper, lower = {*steps("upper"), (asks, via)}, {*steps("lower"), (via, end)}
    assert upper == {(asks, j) for j in every[asks].nonzero()[:, 0].tolist()}
    assert middle == sorted(j for _, j in upper)
    assert lower == {(m, j) for m in middle for j in last[m].nonzero()[:, 0].tolist()}
    *reached, beyond = [int(text) for text in texts(group("sparse", "reached"))]
    assert reached == sorted(j for _, j in lower) == reachable(last, every)[asks].nonzero()[:, 0].tolist()
    assert reached == list(range(asks + 1)) and beyond == PLACES - 1
    # the way that is drawn thick, which no single layer has
    assert not PATTERNS["strided"].mask(PLACES)[asks, end]
    [marks] = [n for n in ElementTree.fromstring(FILES["sparse"]).iter(f"{SVG}path") if n.get("id") == "sparse-marks"]
    frame = next(group("sparse", "strided").iter(f"{SVG}use"))
    corner = [float(frame.get(axis)) - 0.5 for axis in "xy"]
    marked = [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)", marks.get("d"))]
    assert marked == [(corner[0] + 7 * j, corner[1] + 7 * i) for i, j in ((asks, via), (via, end))]
    said = described("sparse")
    seen = [str(j) for j in middle[::-1]]
    assert f"{asks} looks at {', '.join(seen[:-1])} and {seen[-1]}" in said
    assert said.endswith(f"from {asks} to {via} and from {via} to {end}.") and f"from 0 to {asks}." in said


# The same patterns, cut into tables: blue, green and orange, in the order of the library.

CUT = "sparse_tables"
COLOURS = ["key", "val", "ask"]
KINDS = {
    "strided": ["own block", "block before", "column"],
    "fixed": ["own block", "end of block before", "ends of the first half"],
}
HALVES = {"first": torch.tril, "rest": torch.triu, "all": torch.clone}


def cut(kind):
    """Return the library's tables: rows of queries, the rows of keys beside them, and which of these each query sees."""
    places = torch.arange(PLACES)[None, None]
    for queries, keys, seen in PATTERNS[kind].tables(PLACES):
        asked, looked = queries(places)[0, 0], keys(places)[0, 0].flatten(1)
        yield asked, looked, HALVES[seen](torch.ones(asked.shape[1], looked.shape[1], dtype=torch.int))


def coloured(part, *shape):
    """Return how often each colour of a group fills each cell; a line runs through the middle of a row of cells."""
    found = {}
    for path in group(CUT, part).iter(f"{SVG}path"):
        if path.get("class").startswith("nw-d-pairs"):
            filled = found[path.get("class").split("-")[-2]] = torch.zeros(shape, dtype=torch.int)
            lines = re.findall(r"M(\d+) (\d*)\.5h(\d+)", path.get("d"))
            assert "".join(f"M{x} {y}.5h{long}" for x, y, long in lines) == path.get("d"), "a cell is off its place"
            for column, row, long in lines:
                filled[int(row or 0)].index_add_(0, torch.arange(int(long)) + int(column), torch.ones(int(long)).int())
    return found


def axes(part):
    """Return where the middles of columns and rows are: of a triangle, or of a table."""
    [cells] = [node for node in group(CUT, part).iter(f"{SVG}g") if "scale" in node.get("transform", "")]
    left, top, *units = map(float, re.findall(r"[\d.]+", cells.get("transform")))
    return (lambda i: left + units[0] * (i + 0.5)), (lambda i: top + units[-1] * (i + 0.5))


def framed(d):
    """Return the cells (query, key) inside outlines: those with an odd number of sides to their right."""
    for outline in d.split("M")[1:]:
        x, y, *_ = map(int, re.findall(r"\d+", outline))
        sides, start = [], y
        for way, long in re.findall(r"([hv])(-?\d+)", outline):
            x, to = (x + int(long), y) if way == "h" else (x, y + int(long))
            sides += [(x, row) for row in range(min(y, to), max(y, to))]
            y = to
        sides += [(x, row) for row in range(start, y)]  # z closes it
        for i, j in torch.ones(PLACES + 1, PLACES + 1).nonzero().tolist():
            if sum(row == i and side > j for side, row in sides) % 2:
                yield i, j


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_tables_colours_each_pair_by_its_table(kind):
    drawn = coloured(kind, PLACES, PLACES)
    assert list(drawn) == COLOURS
    for filled, (asked, looked, seen) in zip(drawn.values(), cut(kind), strict=True):
        expected = torch.zeros(PLACES, PLACES, dtype=torch.int)
        for queries, keys in zip(asked, looked, strict=True):
            expected[queries[:, None], keys] = seen
        assert torch.equal(filled, expected)
    assert torch.equal(sum(drawn.values()), PATTERNS[kind].mask(PLACES).int()), "every pair is in one table"
    pairs = [int(filled.sum()) for filled in drawn.values()]
    assert " ".join(texts(group(CUT, f"{kind}-sum"))) == f"{' + '.join(map(str, pairs))} = {sum(pairs)} pairs"


def test_sparse_tables_numbers_both_triangles():
    (across, down), (_, below) = axes("strided"), axes("fixed")
    ticks = [(float(text.get("x")), float(text.get("y")), text.text) for text in group(CUT, "axes").iter(f"{SVG}text")]
    starts = range(0, PLACES, STRIDE)
    assert [(x, word) for x, _, word in ticks[: len(starts)]] == [(across(i), str(i)) for i in starts]
    assert [(y, word) for _, y, word in ticks[len(starts) :]] == [(down(i) + 4.5, str(i)) for i in starts]
    [again] = group(CUT, "fixed").iter(f"{SVG}use")
    assert again.get("href") == f"#{CUT}-axes" and float(again.get("y")) == below(0) - down(0)
    assert f"{PLACES} positions in four blocks, 0 to 3." in texts(group(CUT, "reading"))[0] and PLACES == 4 * STRIDE
    assert f"over {PLACES} positions in blocks of {STRIDE}," in described(CUT)


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_tables_shows_one_table_of_each_and_frames_its_pairs(kind):
    pairs, said = [], described(CUT).split("Fixed")[kind == "fixed"]
    for n, (asked, looked, seen) in enumerate(cut(kind)):
        part = group(CUT, f"{kind}-{n}")
        head, *top = part.findall(f"{SVG}text")
        side, _, caption = part.findall(f"{SVG}g")
        keys, queries = ([int(text.text) for text in some] for some in (top, side))
        assert head.text == f"{len(asked)} × {KINDS[kind][n]}"
        assert (queries, keys) in zip(asked.tolist(), looked.tolist(), strict=True)
        across, down = axes(f"{kind}-{n}")
        assert [float(text.get("x")) for text in top] == [across(i) for i in range(len(keys))]
        assert [float(text.get("y")) for text in side] == [down(i) + 4.5 for i in range(len(queries))]
        [(colour, filled)] = coloured(f"{kind}-{n}", *seen.shape).items()
        assert colour == COLOURS[n] and torch.equal(filled, seen)
        pairs += [(queries[i], keys[j]) for i, j in seen.nonzero().tolist()]
        # in words: how many keys the first query sees, and the last; or which blocks see which
        blocks = [i for row in zip(asked, looked, strict=True) for of in row for i in (of // STRIDE).unique().tolist()]
        counts = [int(seen[0].sum()), int(seen[-1].sum())] if len(keys) == len(queries) else blocks
        assert re.findall(r"\d+", " ".join(texts(caption))) == [str(count) for count in counts]
        asks, looks = (" ".join(map(str, some)) for some in (queries, keys))
        assert re.search(rf"\b{len(asked)} [a-z ,]*{asks} against [a-z ]*{looks}[;.]", said)
    [outline] = [path for path in group(CUT, kind).iter(f"{SVG}path") if path.get("class") == "nw-d-frame"]
    assert sorted(framed(outline.get("d"))) == sorted(pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_tables_follows_a_query_through_three_tables(kind):
    said = " ".join(texts(group(CUT, f"{kind}-said")))
    query, *keys = map(int, re.findall(r"\d+", said))
    of = [(looked, seen, (asked == query).nonzero().tolist()) for asked, looked, seen in cut(kind)]
    assert keys == [j for looked, seen, at in of for row, m in at for j in looked[row][seen[m] > 0].tolist()]
    most = max(torch.cat([asked.flatten() for asked, _, _ in cut(kind)]).bincount())
    assert most == len(of) == 3 and all(len(at) == 1 for *_, at in of)
    assert "reads three tables:" in said and "reads up to three of them," in " ".join(texts(group(CUT, "joined")))


# Scaling: a budget as an area, and two ways to spend ten times as much, to scale.


def exponents():
    """Return how the two papers divide a growing budget, (parameters, tokens): the chapter's numbers, and Hoffmann's."""
    split = assigned(parsed_cell("2020_scaling_laws", "tenfold"), "split")
    of = {key.value: value.right.value for key, value in zip(split.keys, split.values, strict=True)}
    assert all(value.left.value == 10 for value in split.values)
    tokens = of["batch"] + of["steps"]  # a batch is tokens, too
    return {"kaplan": (of["parameters"], tokens), "hoffmann": (0.5, 0.5)}  # Hoffmann et al. 2022, approach 1


def areas(part):
    """Return the different rectangles of a group, the smallest first: width, height, left, top."""
    found = {
        tuple(float(rect.get(name)) for name in ("width", "height", "x", "y"))
        for rect in group("scaling", part).iter(f"{SVG}rect")
    }
    return sorted(found)


@pytest.mark.parametrize("part", ["kaplan", "hoffmann"])
def test_scaling_draws_ten_times_the_area_to_scale(part):
    today, tenfold = areas(part)
    assert [area[:2] for area in areas("today")] == [today[:2]] and today[0] == today[1]
    assert today[2:] == tenfold[2:], "in its corner"
    grown = [tenfold[i] / today[i] for i in (0, 1)]
    assert grown == pytest.approx([10**exponent for exponent in exponents()[part]], rel=0.001)
    assert math.prod(grown) == pytest.approx(10, rel=0.001)


@pytest.mark.parametrize("part", ["today", "kaplan", "hoffmann"])
def test_scaling_measures_the_sides(part):
    wide, high, left, top = areas(part)[-1]
    measures = [path.get("d") for path in group("scaling", part).iter(f"{SVG}path")]
    across, down = ([float(n) for n in re.findall(r"-?[\d.]+", d)] for d in measures)
    start, y, _, x, line, long, end, _, _ = across
    assert (start, x, long) == (left, left, wide) and end == pytest.approx(left + wide) and line < y < top
    x, start, tick, line, begin, long, _, end, _ = down
    assert (start, begin, long) == (top, top, high) and end == pytest.approx(top + high, abs=0.01)
    assert left + wide < x < line < x + tick


@pytest.mark.parametrize("part", ["kaplan", "hoffmann"])
def test_scaling_prints_the_factors_and_exponents(part):
    said, written = described("scaling"), texts(group("scaling", part))
    N, D = exponents()[part]
    factors = [f"N × {10**N:.1f}", f"D × {10**D:.1f}"]
    assert written[1:5] == [factors[0], f"exponent {N:g}", factors[1], f"exponent {D:g}"]
    assert " ".join(written[5:]) == "today 10 times 6·N·D operations"
    assert f"{' and '.join(factors)}, exponents {N:g} and {D:g}" in said
    author, year = re.match(r"(\w+) et al\. (\d{4}):", written[0]).groups()
    assert f"By {author} and others ({year})" in said
    assert "area: 6·N·D operations of training" in texts(group("scaling", "today"))


# GPT-3: one task, by fine-tuning and in three prompts.

PLURALS = [("dog", "dogs"), ("cat", "cats"), ("tree", "trees"), ("house", "houses")]
SHOTS = {"zero": 0, "one": 1, "few": 3}


def test_gpt3_shows_the_prompts_of_the_library():
    shown = {name: "\n".join(texts(group("gpt3", name))) for name in SHOTS}
    instructions = ast.literal_eval(assigned(parsed_cell("2020_gpt3", "families"), "INSTRUCTIONS"))
    how = {"query": "house", "instruction": instructions["gram8-plural"]}

    def drawn_by(seed):
        for name, k in SHOTS.items():
            yield name, few_shot_prompt(PLURALS, k, **how, generator=torch.Generator().manual_seed(seed))

    # with one seed all three agree, and the order of the examples is one that can be drawn
    assert any(dict(drawn_by(seed)) == shown for seed in range(100))
    said = described("gpt3")
    assert shown["zero"].replace("\n", " ") in said
    *_, few = said.split("few-shot, with ")
    assert few.startswith(", ".join(shown["few"].split("\n")[1:-1]).replace(", tree", " and tree"))


def test_gpt3_fine_tunes_on_the_same_pairs_and_asks_the_same():
    tuned, asked = texts(group("gpt3", "pairs")), texts(group("gpt3", "tuning"))
    assert tuned == [f"{query} -> {answer}" for query, answer in PLURALS[:2]]
    assert "house ->" in asked and texts(group("gpt3", "zero"))[-1] == "house ->"
    assert texts(group("gpt3", "houses")) == [dict(PLURALS)["house"]]
    answers = {
        part: [use for use in group("gpt3", part).iter(f"{SVG}use") if use.get("href") == "#gpt3-houses"]
        for part in ("tuning", "frozen")
    }
    assert len(answers["tuning"]) == 1 and len(answers["frozen"]) == len(SHOTS)


def test_gpt3_changes_the_weights_above_and_not_below():
    bars = [path for path in group("gpt3", "tuning").iter(f"{SVG}path") if "gpt3-weights" in path.get("id", "")]
    heights = [re.findall(r"v-(\d+)", path.get("d")) for path in bars]
    assert len(heights) == 3 and len({tuple(some) for some in heights}) == 3 and {len(some) for some in heights} == {5}
    frozen = [use.get("href") for use in group("gpt3", "frozen").iter(f"{SVG}use") if "weights" in use.get("href")]
    assert frozen == [f"#{bars[0].get('id')}"], "the pre-trained ones, in one box for all prompts"
    assert texts(group("gpt3", "gpt3")) == ["GPT-3", "weights", "frozen"]
    assert " ".join(texts(group("gpt3", "updates"))) == "gradient update gradient updates"
    assert "In the prompt: no weight changes" in texts(group("gpt3", "frozen"))


def test_gpt3_has_the_context_of_the_preset():
    limit = f"at most {DecoderConfig.preset('gpt3-175b').context_length:,} tokens"
    assert any(limit in text for text in texts(group("gpt3", "frozen")))
    assert described("gpt3").endswith(f"No weight changes, and a prompt holds {limit}.")


# PPO: a loop, and the loop around it.


@pytest.fixture(scope="module")
def cartpole():
    """The settings with which the chapter trains on CartPole."""
    tasks = assigned(parsed_cell("2017_ppo", "rec-tasks"), "TASKS")
    of = {key.value: value for key, value in zip(tasks.keys, tasks.values, strict=True)}
    return PPOConfig(**{setting.arg: ast.literal_eval(setting.value) for setting in of["CartPole-v1"].keywords})


def test_ppo_acts_in_the_environment_of_gymnasium():
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=0)
    rewards, over = [], False
    while not over:
        _, reward, over, _, _ = env.step(1)
        rewards.append(reward)
    assert env.action_space.n == 2 and set(rewards) == {1}
    written = " ".join(texts(group("ppo", "loop")))
    assert "push left, or right?" in written and "The reward is 1 for every step" in written
    assert "environment (CartPole)" in written


def test_ppo_has_the_numbers_of_the_chapter(cartpole):
    batch = cartpole.n_envs * cartpole.n_steps
    minibatch, steps = batch // cartpole.n_minibatches, cartpole.n_epochs * cartpole.n_minibatches
    iterations = cartpole.total_steps // batch
    collect, learn, again = (" ".join(texts(group("ppo", name))) for name in ("collect", "learn", "again"))
    runs = f"runs for {cartpole.n_steps} steps in {cartpole.n_envs} copies of CartPole: {batch:,} steps"
    over_them = f"{cartpole.n_epochs} epochs over the {batch:,} steps, in {cartpole.n_minibatches} minibatches of"
    assert runs in collect and f"{over_them} {minibatch}: {steps} gradient steps" in learn
    fit = f"{iterations} iterations fit into {cartpole.total_steps:,} steps."
    assert again.endswith(fit)
    assert f"{cartpole.n_steps} steps" in texts(group("ppo", "iteration"))
    copies = [float(use.get("y")) for use in group("ppo", "copies").iter(f"{SVG}use")]
    assert len(set(copies)) == len(copies) == cartpole.n_envs
    said = described("ppo")
    assert f"{cartpole.n_envs} copies of CartPole go through this loop for {cartpole.n_steps} steps each" in said
    whole = f"{over_them.replace('over the', 'over these')} {minibatch}, are {steps} gradient steps"
    assert whole in said and said.endswith(fit)


def test_ppo_draws_the_clipped_objective_of_the_library(cartpole):
    clip = group("ppo", "clip")
    ticks = {text.text: float(text.get("x")) for text in clip.iter(f"{SVG}text")}
    bent = next(path for path in clip.iter(f"{SVG}path") if path.get("id") == "ppo-clipped")
    at = [float(number) for number in re.findall(r"[\d.]+", bent.get("d"))]
    (x, bottom, kink, top, end), limit = at, 1 + cartpole.clip
    unit = (ticks[f"{limit:g}"] - ticks["1"]) / cartpole.clip
    ratios = torch.tensor([1 + (place - ticks["1"]) / unit for place in (x, kink, end)])
    zeros = torch.zeros(1)
    least, most, last = (
        -ppo_loss(ratio.log()[None], zeros, zeros + 1, zeros, zeros, zeros, clip=cartpole.clip).policy.item()
        for ratio in ratios
    )
    assert ratios[1].item() == pytest.approx(limit) and most == pytest.approx(last) == pytest.approx(limit)
    # straight up to the limit, and level behind it; the dashed line goes on as it would without
    rise = (bottom - top) / (most - least)
    dashed = [path.get("d") for path in clip.iter(f"{SVG}path") if "nw-d-dash" in path.get("class")]
    [(beyond, high)] = re.findall(r"L([\d.]+) ([\d.]+)$", dashed[0])
    assert float(beyond) == end and float(high) == pytest.approx(bottom - rise * (ratios[2].item() - least), abs=0.01)
    assert "Âₜ > 0" in ticks and f"stops rising at the ratio {limit:g}." in described("ppo")


def test_ppo_judges_better_above_the_line_and_worse_below():
    part = group("ppo", "iteration")
    by_id = {path.get("id"): path.get("d") for path in part.iter(f"{SVG}path")}
    line = next(start(path)[1] for path in part.iter(f"{SVG}path") if path.get("d") == "M294 366h94")
    for name, down in (("better", False), ("worse", True)):
        bars = re.findall(r"M(\d+) (\d+)h5v(-?)(\d+)", by_id[f"ppo-{name}"])
        assert bars and all((int(y) > line, sign == "") == (down, down) for _, y, sign, _ in bars)
        [label] = [float(text.get("y")) for text in part.iter(f"{SVG}text") if text.text == name]
        assert (label > line) == down


# PPO, the clip: three moments of an action.


def clipped(ratio, advantage, clip):
    """Return what an action adds to the clipped objective of the library, and the slope."""
    x, zero = torch.tensor([ratio], dtype=torch.float64, requires_grad=True), torch.zeros(1, dtype=torch.float64)
    gain = -ppo_loss(x.log(), zero, zero + advantage, zero, zero, zero, clip=clip).policy
    return gain.item(), torch.autograd.grad(gain, x)[0].item()


@pytest.mark.parametrize(("moment", "sign"), [(1, 1), (2, 1), (3, -1)])
def test_clipping_draws_the_objective_and_the_slope_of_the_library(cartpole, moment, sign):
    part = group("clipping", str(moment))
    words, said = texts(part), described("clipping")
    ratio = float(words[0].removeprefix("ρₜ = "))
    assert words[1:3] == [str(moment), "good: Âₜ > 0" if sign > 0 else "bad: Âₜ < 0"]
    limit = round(1 + sign * cartpole.clip, 6)
    ticks = {text.text: float(text.get("x")) for text in part.iter(f"{SVG}text")}
    unit = (ticks[f"{limit:g}"] - ticks["1"]) / (limit - 1)
    lines = [path.get("d") for path in part.iter(f"{SVG}path") if path.get("class").startswith("nw-d-strong")]
    [[x0, y0, x1, y1, x2, y2]] = [[float(n) for n in re.findall(r"[\d.]+", d)] for d in lines]
    gains = [clipped(1 + (x - ticks["1"]) / unit, sign, cartpole.clip)[0] for x in (x0, x1, x2)]
    assert 1 + (x1 - ticks["1"]) / unit == pytest.approx(limit)
    rise = (y0 - y2) / (gains[2] - gains[0])
    assert y1 == pytest.approx(y0 - rise * (gains[1] - gains[0]), abs=0.1)
    gain, slope = clipped(ratio, sign, cartpole.clip)
    [dot] = [start(path) for path in part.iter(f"{SVG}path") if path.get("class") == "nw-d-key"]
    assert dot[0] + 5 == pytest.approx(ticks["1"] + unit * (ratio - 1), abs=0.1)
    assert dot[1] == pytest.approx(y0 - rise * (gain - gains[0]), abs=0.1)
    assert words[-2] == f"slope {slope:g}".replace("-", "−") and f"the slope is {slope:g}".replace("-", "−") in said
    arrows = [path.get("d") for path in part.iter(f"{SVG}path") if path.get("marker-end")]
    [*ways] = [[float(n) for n in re.findall(r"[\d.]+", d)] for d in arrows]
    assert [(to > begin) - (to < begin) for begin, _, to, _ in ways] == [slope] * (slope != 0)
    assert part.get("style") == f"--nw-d-t: {moment - 1}"


# InstructGPT: three steps.

SAMPLED = [12_725, 33_207, 31_144]  # Ouyang et al. 2022, table 6: training prompts for SFT, reward model and PPO
RANKED = (4, 9)  # Ouyang et al. 2022, section 3.5: from K = 4 to K = 9 answers are ranked together


def test_instructgpt_has_the_prompts_of_table_6():
    chapter = ast.literal_eval(assigned(parsed_cell("2022_instructgpt", "table6"), "PROMPTS"))
    assert [sum(written_by) for written_by in chapter.values()] == SAMPLED
    said, places = described("instructgpt"), []
    for number, sampled in enumerate(SAMPLED, start=1):
        assert f"{sampled:,} prompts" in texts(group("instructgpt", str(number)))
        assert texts(group("instructgpt", str(number)))[0] == str(number)
        places.append(said.index(f"{sampled:,} prompts"))
    assert places == sorted(places)


def test_instructgpt_ranks_the_answers_that_are_drawn():
    answers, ranked = texts(group("instructgpt", "answers"))[::2], texts(group("instructgpt", "ranked"))
    assert answers == sorted(ranked) and RANKED[0] <= len(answers) <= RANKED[1]
    heights = [float(text.get("y")) for text in group("instructgpt", "ranked").iter(f"{SVG}text")]
    lines = [path.get("d") for path in group("instructgpt", "ranks").iter(f"{SVG}path")]
    ways = [[float(number) for number in re.findall(r"[\d.]+", d)] for d in lines]
    assert [start(path)[1] for path in group("instructgpt", "ranks").iter(f"{SVG}path")] == [y - 4.5 for y in heights]
    assert [ranked[heights.index(to + 4.5)] for *_, to in ways] == answers  # each leads to its own letter
    second, said = " ".join(texts(group("instructgpt", "2"))), described("instructgpt")
    assert "best worst" in second and f"{RANKED[0]} to {RANKED[1]} answers" in second
    assert f"writes {RANKED[0]} to {RANKED[1]} answers" in said
    assert f"here {', '.join(answers[:-1])} and {answers[-1]}, " in said
    assert f"from best to worst, {', '.join(ranked)}, and" in said


def test_instructgpt_asks_its_own_question_twice_and_then_a_new_one():
    question = " ".join(texts(group("instructgpt", "prompt")))
    assert f'"{question}"' in described("instructgpt")
    uses = [[use.get("href") for use in group("instructgpt", str(number)).iter(f"{SVG}use")] for number in (1, 2, 3)]
    assert uses == [["#instructgpt-prompt"], ["#instructgpt-prompt"], []]


def test_instructgpt_pays_the_price_of_the_library():
    third = texts(group("instructgpt", "3"))
    assert "score r" in third and "r − β KL" in third and "PPO updates the policy" in third
    score, beta = torch.tensor([2.0]), 0.5
    log_prob, reference = torch.tensor([[-1.0, -0.5]]), torch.tensor([[-2.0, -1.5]])
    rewards = shape_rewards(score, log_prob, reference, torch.ones(1, 2, dtype=torch.bool), beta)
    kl = (log_prob - reference).sum()  # of the policy from SFT, estimated from what it wrote
    torch.testing.assert_close(rewards.sum(), score[0] - beta * kl)
    assert "r minus the penalty β KL" in described("instructgpt")
