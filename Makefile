PYTHON ?= python3
BIN := .venv/bin
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help .venv demo test mutants docs notebooks check format bench

help:
	@echo "make demo    the main job: plain and steered pictures, with a report in runs/demo"
	@echo "make test    the whole test suite"
	@echo "make mutants   break a line at a time and name the edits that no test notices (five minutes)"
	@echo "make docs    the site, in site/index.html"
	@echo "make notebooks   run the notebooks' text and write their pictures"
	@echo "make check   ruff, basedpyright, import arrows"
	@echo "make bench   all quick benches"

.venv: .venv/.complete .venv-particles/.complete

.venv/.complete: pyproject.toml
	@echo "Creating .venv: torch alone is several GB, this can take some minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev,notebooks]"
	@touch $@

# The rival library pins numpy below 2, so it can't live beside torch and diffusers.
.venv-particles/.complete:
	$(PYTHON) -m venv .venv-particles
	.venv-particles/bin/python -m pip install --quiet "particles==0.4" "numpy<2"
	@touch $@

demo: .venv
	$(BIN)/fkdiff generate "a cat and a pizza on a blue background" --particles 8 --reward emoji-clip --out runs/demo

test: .venv
	$(THREADS) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --quiet

mutants: .venv
	$(THREADS) PYTHONPATH=. $(BIN)/python tests/mutants/run.py

docs: .venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "site/index.html"

notebooks: .venv
	$(THREADS) $(BIN)/python notebooks/write.py

check: .venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/python -m pytest --quiet tests/test_arrows.py

format: .venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv
	for name in overhead memory resampling correctors; do $(BIN)/fkdiff bench $$name --quick || exit 1; done
