"""What a chapter may not do: planted faults of many shapes, honest code that must pass, and the chapters themselves."""

import re
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest

from nextword.book import claims

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import chapter_rules
import chapters

START = "import numpy as np\nfrom nextword import data, runtime\nfrom nextword.book import claims\nruns = data.load_run('a')"
KINDS = {"m.a": "measurement", "m.b": "measurement", "e.a": "exact", "r.a": "report"}


class Kind:
    """A claim of which only id and kind matter."""

    def __init__(self, id, kind):
        self.id, self.kind = id, kind


@pytest.fixture
def ledger(monkeypatch):
    """A ledger of four claims."""
    monkeypatch.setattr(claims, "ledger", lambda: {id: Kind(id, kind) for id, kind in KINDS.items()})


def faults(*cells):
    """Return the faults of a chapter: a heading, the imports, then these cells, the first of which is cell 2."""
    code = [nbformat.v4.new_code_cell(textwrap.dedent(cell).strip()) for cell in (START, *cells)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A chapter"), *code])
    return chapter_rules.faults("chapter", notebook)


def check(cells, remedy):
    """Require faults of the last cell alone, one of them with this remedy."""
    found = faults(*cells) if isinstance(cells, tuple) else faults(cells)
    last = 1 + len(cells) if isinstance(cells, tuple) else 2
    assert any(f"chapter, cell {last}: " in message and remedy in message for message in found), found
    assert all(re.fullmatch(r"chapter, cell \d+: .+: .+\.", message, re.S) for message in found)


TYPED = {
    "a number": "claims.record('m.a', 3.2)",
    "a negative number": "claims.record('m.a', -3)",
    "arithmetic": "claims.record('m.a', 1 + 2)",
    "a list": "claims.record_seeds('m.a', [1.0, 2.0])",
    "arithmetic under a name that is put together": "claims.record_seeds(''.join(['m.', 'a']), [15 + 0.9, 16 + 0.8])",
    "one of a list": "claims.record_seeds('m.a', [1.0, runs['x']])",
    "a conversion": "claims.record('m.a', float('3.2'))",
    "text": "claims.record('m.a', '3.2')",
    "a mean": "claims.record('m.a', np.mean([1.0, 2.0]))",
    "a method": "claims.record('m.a', np.array([1.0, 2.0]).mean().item())",
    "all keywords": "claims.record(id='m.a', measured=1 + 2)",
    "a keyword": "claims.record('m.a', measured=3.2)",
    "values": "claims.record_seeds('m.a', values=(1, 2))",
    "several values beside a mean": "claims.record('m.a', runs['x'], values=[1, 2])",
    "a name": "x = 3.2\nclaims.record('m.a', x)",
    "two names": ("x = 3.2", "y = 2 * x", "claims.record('m.a', y)"),
    "a name given anew": "x = runs['x']\nx = 3.2\nclaims.record('m.a', x)",
    "a tuple": "x, y = runs['x'], 3.2\nclaims.record('m.a', y)",
    "a walrus": "claims.record('m.a', (x := 3.2))",
    "a dictionary": "found = {'x': 3.2, 'y': runs['y']}\nclaims.record('m.a', found['x'])",
    "a loop": "for id, x in (('m.a', 3.2), ('m.b', runs['x'])):\n    claims.record(id, x)",
    "a loop over a dictionary": "for id, x in {'m.a': 3.2, 'm.b': runs['x']}.items():\n    claims.record(id, x)",
    "a star": "claims.record(*('m.a', 3.2))",
    "a fall-back": "claims.record('m.a', runs['x'] if runs else 3.2)",
    "a fall-back with or": "claims.record('m.a', runs.get('x') or 3.2)",
    "a fall-back in a condition": "x = 3.2\nif runs:\n    x = runs['x']\nclaims.record('m.a', x)",
    "a size of the chapter": "x = runtime.by_preset(smoke=1, cpu=3.2, gpu=3.2)\nclaims.record('m.a', x)",
    "the ledger's own number": "claims.record('m.a', claims.get('m.a').paper_value)",
    "a list filled by hand": "found = []\nfound.append(3.2)\nfound.append(3.1)\nclaims.record_seeds('m.a', found)",
    "a function of nothing": "def measure():\n    return 3.2\nclaims.record('m.a', measure())",
    "a lambda": "measure = lambda: 3.2\nclaims.record('m.a', measure())",
    "a helper": ("def over(id, found):\n    claims.record(f'm.{id}', found)", "over('a', 3.2)"),
    "a helper's keyword": ("def over(id, found):\n    claims.record(f'm.{id}', found)", "over('a', found=[3.2])"),
    "a helper's helper": (
        "def over(id, x):\n    claims.record(id, x)\ndef twice(x):\n    over('m.a', 2 * x)",
        "over('m.b', runs['x'])\ntwice(1.6)",
    ),
    "a helper's default": ("def over(id, x=3.2):\n    claims.record(id, x)", "over('m.a')"),
    "a lambda that records": ("over = lambda id, x: claims.record(id, x)", "over('m.a', 3.2)"),
    "inside a helper": "def over(id):\n    x = 3.2\n    claims.record(id, x)\nover('m.a')",
    "an interval": "claims.record('m.a', runs['x'], interval=(1.0, 2.0))",
    "half an interval": "claims.record('m.a', runs['x'], interval=(1.0, runs['y']))",
    "a spread": "claims.record('m.a', runs['x'], std=0.1)",
    "a live point": "claims.record('m.a', runs['x'], recorded=(3.2, *claims.band_of(runs['y'])))",
    "a live point of a pair": """
        def repeated(value, found):
            return (value, *claims.band_of(found)) if runs else None
        claims.record('m.a', runs['x'], recorded=repeated(3.2, runs['y']))""",
    "a repeated point": "claims.record('m.a', runs['x'], live=claims.repeat('a.x', 3.2, runs['x']))",
    "further arguments": "rest = {'interval': (1.0, 2.0)}\nclaims.record('m.a', runs['x'], **rest)",
    "further arguments, added": "rest = {}\nrest |= {'std': 0.1}\nclaims.record('m.a', runs['x'], **rest)",
    "further arguments, set": "rest = {}\nrest['std'] = 0.1\nclaims.record('m.a', runs['x'], **rest)",
    "further arguments, updated": "rest = {}\nrest.update(std=0.1)\nclaims.record('m.a', runs['x'], **rest)",
    "further arguments, updated by a dictionary": """
        rest = {'seeds': 3}
        rest.update({'std': 0.1})
        claims.record('m.a', runs['x'], **rest)""",
    "further arguments, handed on": (
        "def over(id, found, **rest):\n    claims.record(id, found, **rest)",
        "over('m.a', runs['x'], std=0.1)",
    ),
    "another name of the module": "import nextword.book.claims as c\nc.record('m.a', 3.2)",
    "the function imported": "from nextword.book.claims import record\nrecord('m.a', 3.2)",
    "a bare number of an exact claim": "claims.record('e.a', 3.2)",
    "a bare name of an exact claim": "x = 3.2\nclaims.record('e.a', float(x))",
    "a bare number of a report": "claims.record('r.a', -3)",
}

SWALLOWED = {
    "around a record": "try:\n    claims.record('m.a', runs['x'])\nexcept ValueError:\n    pass",
    "a fall-back number": ("try:\n    x = runs['x']\nexcept KeyError:\n    x = 3", "claims.record('m.a', x)"),
    "with a star": ("try:\n    x = runs['x']\nexcept* KeyError:\n    x = runs['y']", "claims.record('m.a', x)"),
    "a few steps away": (
        "try:\n    x = runs['x']\nexcept KeyError:\n    x = runs['y']",
        "z = {'y': 2 * x}",
        "claims.record('m.a', np.mean(z['y']))",
    ),
    "in a function": (
        "def measure(x):\n    try:\n        return runs[x]\n    except KeyError:\n        return runs['y']",
        "claims.record('m.a', measure('x'))",
    ),
    "in a list": (
        "found = []\ntry:\n    found.append(runs['x'])\nexcept KeyError:\n    found.append(runs['y'])",
        "claims.record_seeds('m.a', found)",
    ),
    "in the cell of a helper": (
        "def over(id):\n    claims.record(id, runs['x'])",
        "try:\n    print(runs['z'])\nexcept KeyError:\n    pass\nover('m.a')",
    ),
    "suppress": "import contextlib\nwith contextlib.suppress(KeyError):\n    print(runs['x'])",
    "suppress by name": "from contextlib import suppress as quiet\nwith quiet(KeyError):\n    print(runs['x'])",
}

ENVIRONMENT = {
    "set": "import os\nos.environ['NEXTWORD_PRESET'] = 'smoke'",
    "read": "import os\nprint(os.environ.get('HOME'))",
    "getenv": "import os\nprint(os.getenv('HOME'))",
    "putenv": "import os as system\nsystem.putenv('NEXTWORD_PRESET', 'smoke')",
    "imported": "from os import environ\nenviron['NEXTWORD_PRESET'] = 'smoke'",
    "a magic": "%env NEXTWORD_PRESET=smoke",
    "another magic": "%set_env NEXTWORD_PRESET smoke",
    "a shell": "!export NEXTWORD_PRESET=smoke",
    "a shell, read": "found = !export",
}

REPLACED = {
    "preset": "runtime.preset = lambda: 'smoke'",
    "busy": "setattr(runtime, 'busy', lambda: True)",
    "another name": "there = runtime\nthere.seed = lambda: 7",
    "a function's name": "import nextword.runtime\nnextword.runtime.bf16 = None",
    "criterion": "claims.ledger()['m.a'] = claims.get('m.b')",
    "a frozen claim": "object.__setattr__(claims.get('m.a'), 'threshold', 0)",
    "deleted": "del runtime.by_preset",
    "patch": "from unittest.mock import patch\nwith patch('nextword.runtime.preset'):\n    pass",
    "pytest": "import pytest",
    "modules": "import sys\nsys.modules['nextword.book.claims'] = sys",
    "modules, popped": "import sys\nsys.modules.pop('nextword.runtime')",
    "code in text": "exec('claims.record(1)')",
    "the module's names": "globals()['claims'] = None",
    "reload": "import importlib",
    "all names": "from nextword.book.claims import *",
    "record": "claims.record = print",
    "the module": "claims = runs",
    "a class of that name": "class claims:\n    record = print",
    "another import": "from json import tool as claims",
    "the imported function": "from nextword.book.claims import record\ndef record(id, x):\n    pass",
}

BY_HAND = {
    "another name": "note = claims.record",
    "handed on": "list(map(claims.record_seeds, ['m.a'], [runs]))",
    "partial": "from functools import partial\nnote = partial(claims.record, 'm.a')",
    "the type": "from IPython.display import display\ndisplay({claims.MIME: {}}, raw=True)",
    "the type imported": "from nextword.book.claims import MIME",
    "the type in words": "kind = 'application/vnd.nextword.claim+json'",
    "raw": "from IPython.display import display\ndisplay(runs, raw=True)",
    "published": "from IPython.display import publish_display_data\npublish_display_data(runs)",
    "a class": "class Card:\n    def _repr_mimebundle_(self, **rest):\n        return runs",
    "an inner function": "claims._show(runs)",
    "the class": "claims.Verdict(runs, 1.0, 'holds')",
}

UNREADABLE = {
    "a cell magic": "%%time\nclaims.record('m.a', 3.2)",
    "a line magic": "%time claims.record('m.a', 3.2)",
    "another file": "%run other.py",
    "no Python": "claims.record('m.a' 3.2)",
}


def planted(faults):
    """Return test parameters of a table of faults."""
    return pytest.mark.parametrize("cells", faults.values(), ids=faults)


@planted(TYPED)
def test_a_typed_number_is_no_measurement(ledger, cells):
    check(cells, "record what the chapter has computed")


@planted(SWALLOWED)
def test_no_error_is_swallowed(ledger, cells):
    found = faults(*cells) if isinstance(cells, tuple) else faults(cells)
    assert any("so that an error stops the chapter" in message for message in found), found
    assert all(re.match(r"chapter, cell [23]: ", message) for message in found)


@planted(ENVIRONMENT)
def test_a_chapter_leaves_the_environment_alone(ledger, cells):
    check(cells, "ask runtime.by_preset")


@planted(REPLACED)
def test_a_chapter_replaces_no_part_of_the_library(ledger, cells):
    check(cells, "use the library as it is")


@planted(BY_HAND)
def test_verdicts_come_from_record_alone(ledger, cells):
    check(cells, "call claims.record")


@planted(UNREADABLE)
def test_what_the_rules_cannot_read_is_refused(ledger, cells):
    check(cells, "write plain Python")


HONEST = {
    "an interval that ends at zero": "claims.record('m.a', runs['x'], interval=(0 if runs else runs['y'], runs['z']))",
    "a list filled by a hook": """
        def measure(model):
            seen = []
            model.register_forward_hook(lambda *args: seen.append(args[2]))
            return seen
        claims.record('m.a', measure(runs)[0])""",
    "a local name that is also imported": """
        from nextword.overlap import words
        def twisted(sentence):
            words = sentence.split()
            words[0] = words[1]
            return words""",
    "a run": "claims.record('m.a', runs['x'])",
    "one step": "x, y = runs['x'], 3\nclaims.record('m.a', x / y)",
    "a function of settings": "def f(n):\n    return len(runs[n])\nclaims.record('m.a', f(512) / f(64))",
    "a model": "from nextword.decoder import Decoder\nclaims.record('e.a', Decoder.from_pretrained('a').num_parameters())",
    "a name used again": "x = 3.2\nprint(x)\nx = runs['x']\nclaims.record('m.a', x)",
    "a count": "n = 0\nfor row in runs:\n    n += 1\nclaims.record('m.a', n)",
    "a worst case": "worst = 0\nfor row in runs:\n    worst = max(worst, row)\nclaims.record('m.a', worst)",
    "a table filled": "found = {}\nfor k in (1, 2):\n    found[k] = runs[k]\nclaims.record('m.a', found[1])",
    "a list filled": "found = []\nfound.append(runs['x'])\nclaims.record_seeds('m.a', found)",
    "a search": "for n in range(9):\n    if runs[n] > 1:\n        break\nclaims.record('m.a', n)",
    "a best setting": "best = max((0.6, 1.0), key=lambda a: runs[a])\nclaims.record('m.a', best)",
    "nothing to compare": "here = None\nif runs:\n    here = (runs['x'], 1.0 * runs['y'])\n"
    "claims.record('m.a', runs['x'], recorded=here, seeds=5, note='Five.')",
    "further arguments": "rest = {'interval': (runs['x'], runs['y']), 'seeds': 3}\nclaims.record('m.a', runs['x'], **rest)",
    "a helper": (
        """
        def over(id, found, note="Recorded.", **rest):
            rest |= {"interval": tuple(found), "seeds": len(found), "note": note}
            claims.record(f"m.{id}", np.mean(found), **rest)
        """,
        "over('a', np.subtract(runs['x'], runs['y']), 'So.', live=claims.repeat('a.x', runs['x'], runs['y']))",
    ),
    "a loop over names": "for id, key in (('m.a', 'x'), ('m.b', 'y')):\n    claims.record(id, runs[key])",
    "printed numbers": "share = 100 * 11_295 / 12_725\nclaims.record('e.a', share)\nclaims.record('r.a', 4.9 + 60)",
    "printed numbers, by a function": "def share(a, b):\n    return 100 * a / b\nclaims.record('e.a', share(1, 2))",
    "printed numbers, ids with parts": "for k in ('a', 'a'):\n    claims.record(f'e.{k}', 100 * 3 / 4)",
    "an error on purpose": "try:\n    runs['nothing']\nexcept KeyError as error:\n    print(error)",
    "a hub out of reach": (
        "try:\n    x = runs['x']\n    print(x)\nexcept ConnectionError:\n    print('No hub.')",
        "x = runs['y']\nclaims.record('m.a', x)",
    ),
    "a clean-up": "try:\n    claims.record('m.a', runs['x'])\nfinally:\n    print('done')",
    "Colab": "import sys\nif 'google.colab' in sys.modules:\n    %pip install -q nextword",
    "own classes": "class A:\n    pass\na = A()\na.x = 3\na.__class__ = A\nclaims.record('m.a', runs['x'])",
    "own function of that name": "def record(task):\n    return runs[task]\nclaims.record('m.a', record('x'))",
    "the ledger read": "assert '3' in claims.get('m.a').statement",
    "a model's own method": "model = runs['x'].eval()\nclaims.record('m.a', model.score())",
}


@planted(HONEST)
def test_honest_code_passes(ledger, cells):
    assert not (faults(*cells) if isinstance(cells, tuple) else faults(cells))


@pytest.mark.parametrize("name", sorted(path.stem for path in chapters.CHAPTERS.glob("*.ipynb")))
def test_the_chapters_keep_the_rules(name):
    assert not chapter_rules.faults(name, chapters.read(name))
