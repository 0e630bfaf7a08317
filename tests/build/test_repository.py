"""Rules of the repository: one list of dependencies, one public address, layers without circles, clean notebooks' tools."""

import ast
import dataclasses
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sphinx.pycode import ModuleAnalyzer

from nextword.decoder import Decoder

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import chapters

ROOT = Path(__file__).resolve().parents[2]

LIBRARY = ROOT / "lib" / "nextword"

LAYERS = [
    {"runtime", "files", "fetching", "data"},
    {"attention", "sparse_attention", "layers", "tokenizers", "wordpiece", "generation", "pretrained", "checkpoints"},
    {
        "ngram",
        "encoder_decoder",
        "recurrent",
        "transformer",
        "decoder",
        "encoder",
        "contrastive",
        "multimodal",
        "reward_model",
    },
    {"training", "evaluation", "metrics", "profiling", "overlap", "translation", "scaling_laws"}
    | {"ppo", "rlhf", "dpo", "instructions", "check"},
    {"book.claims", "book.listing", "book.plots", "book.runs", "book.translators", "book.tasks"}
    | {"book.icons", "book.robots", "book.questions", "book.outcomes", "book.assistants"}
    | {"book.corpora", "book.counts", "book.browser", "book.models"},
]


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def config():
    return yaml.safe_load((ROOT / "_config.yml").read_text())


def imports_of(module):
    tree = ast.parse(FILES[module].read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {found for node in nodes for found, _ in chapters.imports_of(node, FILES).values()}


FILES = chapters.library()
MODULES = sorted(FILES)


def layer(module):
    return next((i for i, names in enumerate(LAYERS) if module in names), None)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_its_own_layer_and_those_above(module):
    assert layer(module) is not None, f"{module}.py has no layer: add it to LAYERS and to the table in CONTRIBUTING.md"
    for other in imports_of(module):
        assert layer(other) is not None and layer(other) <= layer(module), f"{module} imports {other}, a layer below it"


def test_imports_form_no_circle():
    graph = {module: imports_of(module) for module in MODULES}
    done, path = set(), []

    def visit(module):
        assert module not in path, f"circle: {' → '.join([*path, module])}"
        if module in done or module not in graph:
            return
        path.append(module)
        for other in graph[module]:
            visit(other)
        done.add(path.pop())

    for module in MODULES:
        visit(module)


def split_requirement(text):
    requirement = Requirement(text)
    return canonicalize_name(requirement.name), str(requirement.specifier)


def test_environment_yml_names_the_seven_packages_with_pyprojects_ranges():
    wanted = {"jupyter-book", "torch", "numpy", "matplotlib", "einops", "nbmake", "pytest"}
    extras = [r for rows in project()["optional-dependencies"].values() for r in rows]
    ranges = dict(split_requirement(r) for r in project()["dependencies"] + extras)
    content = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    inner = next(d["pip"] for d in content if isinstance(d, dict))
    rows = [d for d in content if isinstance(d, str)] + [d for d in inner if not d.startswith("-e")]
    found = dict(split_requirement(r) for r in rows)
    found["torch"] = found.pop("pytorch")
    assert "pip" in found and found["python"] == project()["requires-python"]
    assert wanted == set(found) - {"pip", "python"}
    assert {name: found[name] for name in wanted} == {name: ranges[name] for name in wanted}
    editable = next(d for d in inner if d.startswith("-e"))
    named = re.search(r"\[(.*)\]", editable).group(1).split(",")
    assert set(named) <= set(project()["optional-dependencies"])


def test_the_build_is_pinned_and_readers_are_not():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pinned = {split_requirement(line)[0] for line in lines if "==" in line}
    wanted = [*project()["dependencies"], *(r for rows in project()["optional-dependencies"].values() for r in rows)]
    names = {split_requirement(r)[0] for r in wanted} - {"nextword"}
    assert names <= pinned, f"constraints.txt lacks {names - pinned}: two builds of the book would have other versions"
    assert all("==" not in r for r in wanted), "readers keep Colab's own versions"


def test_the_public_address_is_the_same_everywhere():
    url = config()["repository"]["url"]
    install = f'book = "git+{url}@{config()["repository"]["branch"]}"'
    for path in (ROOT / "chapters").glob("*.ipynb"):
        assert install.replace('"', '\\"') in path.read_text(), f"{path.name} installs from another address than {url}"
    assert f'"{url}/blob/{config()["repository"]["branch"]}/"' in (LIBRARY / "book" / "plots.py").read_text()
    for name in ("README.md", "CITATION.cff", "chapters/api.md"):
        addresses = set(re.findall(r"https://github\.com/[\w.-]+/[\w-]+", (ROOT / name).read_text()))
        assert addresses <= {url}, f"{name} names {addresses - {url}}; run make set-repository URL={url}"


def test_set_repository_rewrites_every_address(tmp_path):

    (tmp_path / "lib/nextword/book").mkdir(parents=True)
    for name in ("_config.yml", "README.md", "CITATION.cff", "lib/nextword/book/plots.py", "chapters", "tools"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    new = "https://github.com/somebody/elsewhere"
    subprocess.run([sys.executable, tmp_path / "tools/set_repository.py", new], check=True, capture_output=True)
    old = config()["repository"]["url"]
    for path in [
        *tmp_path.glob("chapters/*.ipynb"),
        *tmp_path.glob("[_R]*.*"),
        tmp_path / "lib/nextword/book/plots.py",
    ]:
        assert old not in path.read_text() and new in path.read_text(), path.name
    refused = subprocess.run(
        [sys.executable, tmp_path / "tools/set_repository.py", "example"], capture_output=True, text=True
    )
    assert refused.returncode != 0 and "https://" in refused.stderr


def test_every_top_level_entry_has_its_reason():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    known = set(
        [
            "README.md",
            "LICENSE",
            "LICENSE-text",
            "CITATION.cff",
            "CONTRIBUTING.md",
            "_config.yml",
            "_toc.yml",
            "environment.yml",
            "pyproject.toml",
            "constraints.txt",
            "Makefile",
            ".ci",
            ".github",
            ".gitignore",
            "chapters",
            "lib",
            "tests",
            "benchmarks",
            "tools",
        ]
    )
    assert {path.split("/")[0] for path in tracked} <= known


def test_nothing_names_a_machine_or_an_index():
    words = ["/work" + "/", "/tmp" + "/", "pypi" + ".org", "files.python" + "hosted"]
    for word in words:
        found = subprocess.run(["git", "grep", "-lIF", word], cwd=ROOT, capture_output=True, text=True).stdout.split()
        assert not found, f"{word} stands in {', '.join(found)}"


def programs(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf8"), re.S)


def test_the_readmes_programs_and_those_of_the_api_page_run(capsys, monkeypatch, tmp_path):
    readme, api = programs("README.md"), programs("chapters/api.md")
    assert readme[1:] == api[:2], "the same programs on both pages"
    assert all(len([line for line in code.splitlines() if line]) <= 15 for code in readme)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("And he said to them, The sea is wide. " * 2000, encoding="utf8")
    written = []
    for code in [readme[0], *api[:2], api[2] + "print('---')\n" + api[3]]:  # the fourth goes on from the third
        exec(compile(code, "program", "exec"), {})
        written.append(capsys.readouterr().out)
    counted, trained, asked, preferred = written
    preferred, own_reward = preferred.split("---\n")
    assert "[" in counted
    assert "loss " in trained and "And he said to them, The sea is wide." in trained
    assert Decoder.from_pretrained(str(tmp_path / "my-gpt")).config.d_model == 64
    assert asked.startswith("The capital of France is Paris") and "<|" not in asked
    [new] = re.findall(r"nats, (\S+) on new ones", preferred)
    assert float(new) < 0.69, "what was preferred is known of a new subject, too"
    before, after = map(float, re.search(r"reward (\S+) → (\S+), KL", preferred).groups())
    assert after > before + 1, "the policy learns what was preferred"
    before, after = map(float, re.search(r"reward (\S+) → (\S+)$", own_reward.strip()).groups())
    assert after > before + 1, "the policy learns what a function rewards"


def test_the_loop_of_the_api_page_writes_what_generate_writes(capsys):
    [code] = [code for code in programs("chapters/api.md") if "new_cache" in code]
    names = {}
    exec(compile(code, "program", "exec"), names)
    model, bpe = names["model"], names["bpe"]
    ids = torch.tensor([bpe.encode("The sea is")])
    stop = bpe.encode(".")[0]
    text = bpe.decode(model.generate(ids, 41 - ids.shape[1], temperature=0, stop=stop)[0, ids.shape[1] :])
    shown = capsys.readouterr().out
    assert shown == text.removesuffix(".") and len(shown) > 10


PAGE = (ROOT / "chapters" / "api.md").read_text(encoding="utf8")
ON_THE_PAGE = re.findall(r"automodule:: nextword\.(\S+)", PAGE)


def test_each_section_of_the_api_page_begins_with_an_import_that_works():
    pattern = r"```python\n(from nextword.* import .*)\n```\n\n```\{eval-rst\}\n\.\. automodule:: nextword\.(\S+)\n"
    sections = re.findall(pattern, PAGE)
    assert [module for _, module in sections] == ON_THE_PAGE
    for line, module in sections:
        assert line.startswith(f"from nextword.{module} import ") or line == f"from nextword import {module}"
        exec(line, {})


@pytest.mark.parametrize("name", [name for name in ON_THE_PAGE if name not in ("data", "fetching") and "." not in name])
def test_every_field_on_the_api_page_is_explained(name):
    module = importlib.import_module(f"nextword.{name}")
    explained = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
    names = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
    for owner in (getattr(module, n) for n in names):
        if isinstance(owner, type) and owner.__module__ == module.__name__:
            is_record = dataclasses.is_dataclass(owner)
            fields = [f.name for f in dataclasses.fields(owner)] if is_record else getattr(owner, "_fields", ())
            missing = [field for field in fields if (owner.__name__, field) not in explained]
            assert not missing, f"{owner.__name__} lacks a sentence on {', '.join(missing)}: write it behind #:"


def test_the_models_need_neither_matplotlib_nor_scipy():
    rest = {"scaling_laws", *(name for name in MODULES if name.startswith("book."))}
    wanted = ", ".join(f"nextword.{name}" for name in MODULES if name not in rest)
    code = f"import sys, {wanted}; print(*{{'matplotlib', 'scipy', 'IPython'}} & {{*sys.modules}})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def about():
    return tomllib.loads((ROOT / "chapters" / "chapters.toml").read_text(encoding="utf8"))


def test_every_chapter_is_registered_once_and_everything_else_follows():
    registered = about()
    assert sorted(registered) == sorted(path.stem for path in (ROOT / "chapters").glob("*.ipynb"))
    listed = re.findall(r"file: chapters/(\w+)", (ROOT / "_toc.yml").read_text(encoding="utf8"))
    assert [name for name in listed if name in registered] == list(registered), (
        "_toc.yml lists the chapters in the order of chapters.toml"
    )
    readme, index = ((ROOT / name).read_text(encoding="utf8") for name in ("README.md", "chapters/index.md"))
    rows = re.findall(r"^\| \[(.+?)\]\(chapters/(\w+)\.ipynb\) \| (.+?) \|", readme, re.M)
    assert rows == [(row["title"], name, row["papers"]) for name, row in registered.items()]
    cards = re.findall(r"\{grid-item-card\} (\w+) · (.+)\n:link: (\w+)\n", index)
    assert cards == [(str(row["year"]), row["short"], name) for name, row in registered.items()]
    minutes = round(sum(row["budget_seconds"] for row in registered.values()) / 60)
    assert f"budgeted at {minutes} minutes of one core" in index, minutes


@pytest.mark.parametrize("name", about())
def test_a_chapter_is_what_it_is_registered_as(name):
    row = about()[name]
    notebook = nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert notebook.cells[0].source.startswith(f"# {row['title']}\n")
    assert re.fullmatch(r"[^:]{3,25}: [^:]+", row["title"]), (
        "the paper first: it is what readers look for in the contents"
    )
    extras = row["extras"]
    assert set(extras) <= set(project()["optional-dependencies"])
    install = f"nextword[{','.join(extras)}]" if extras else "nextword"
    assert f'%pip install -q "{install} @ {{book}}" "nextword-book @ {{book}}#subdirectory=lib/nextword/book"' in code
    for model in row["models"]:
        assert (LIBRARY / "bundled" / "models" / model).is_dir(), model
    for run, plan in row.get("runs", {}).items():
        assert f"def {plan['function']}(" in code, f"{run} calls {plan['function']}, which the chapter does not define"
