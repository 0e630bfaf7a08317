# Next Word. Everything runs in .venv, which is made from pyproject.toml and constraints.txt on first use.
VENV   := .venv
BIN    := $(VENV)/bin
PYTHON ?= python3
NAME   ?=
export TOKENIZERS_PARALLELISM := false

.PHONY: test book smoke chapter colab calibrate runs outcomes verify checkpoints bench data screenshots set-repository clean
.DELETE_ON_ERROR:

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -U pip
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[chapters,book,test]"
	@touch $@

test: $(VENV)/.done            ## prove the library: style, types, tests, doctests, rules of notebooks and data
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MPLBACKEND=agg OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests lib

book: $(VENV)/.done            ## execute every chapter, gather the claims, build HTML and notebooks to run, open it in a real browser
	$(BIN)/python tools/execute.py
	$(if $(CI),OMP_NUM_THREADS=1 NEXTWORD_PROGRESS=0 $(BIN)/python tools/provenance.py --spot)
	$(BIN)/python tools/collect.py
	$(BIN)/python tools/assemble.py
	PYTHONPATH=tools $(BIN)/jupyter-book build build/src -W -n --keep-going --path-output build/html
	$(BIN)/python tools/edition.py
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/book
	@echo "The book: build/html/_build/html/index.html"

chapter: $(VENV)/.done         ## run one chapter: make chapter NAME=2003_next_word
	$(BIN)/python tools/execute.py $(NAME)
	$(BIN)/python tools/collect.py

smoke: $(VENV)/.done           ## every chapter at its smallest size, to see that it runs
	NEXTWORD_PRESET=smoke $(BIN)/python tools/execute.py --all --folder build/smoke

colab: $(VENV)/.done           ## every edition as Colab runs it: bare environment, empty folder, first cell installs
	$(BIN)/python tools/colab.py $(NAME)

calibrate: $(VENV)/.done       ## run a chapter's measurements with other seeds, threads and precision
	$(BIN)/python tools/calibrate.py $(NAME)

runs: $(VENV)/.done            ## make the recorded runs (long): make runs NAME=next_word_neural
	$(BIN)/python tools/record.py $(NAME)

outcomes: $(VENV)/.done        ## copy the verdicts of the last build to where the epilogue reads them
	$(BIN)/python tools/outcomes.py

verify: $(VENV)/.done          ## repeat the cheapest points of recorded runs that today's code has not made: make verify NAME=next_word_neural
	OMP_NUM_THREADS=1 $(BIN)/python tools/provenance.py --verify $(NAME)

checkpoints: $(VENV)/.done     ## train the bundled models from data and seed: make checkpoints NAME=gnmt_en_es
	$(BIN)/python tools/checkpoints.py $(NAME)

bench: $(VENV)/.done           ## race the library against its peers
	OMP_NUM_THREADS=1 NEXTWORD_PROGRESS=0 $(BIN)/python benchmarks/run.py

data: $(VENV)/.done            ## fetch every data set of the book, once
	$(BIN)/python -m nextword.data

screenshots: $(VENV)/.done     ## pictures of every built page: light, dark, phone
	$(BIN)/python tools/screenshots.py

set-repository: $(VENV)/.done  ## make set-repository URL=https://github.com/owner/name
	$(BIN)/python tools/set_repository.py $(URL)

clean:
	rm -rf build
