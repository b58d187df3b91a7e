# Two targets for everyone: `make demo` and `make test`. Each makes its own environment in .venv the first time.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= demo
BENCH_ARGS ?=

.PHONY: demo bench test lint install clean help

help:
	@echo "make demo   train, export and score on the shipped samples; leaves $(OUT)/scored.csv and $(OUT)/report.html"
	@echo "make test   the whole test suite"
	@echo "make lint   ruff and pyright"
	@echo "make bench  jirgee against its peers on this machine (docs/benchmarks.md); BENCH_ARGS chooses among them"
	@echo "make clean  remove what demo made"

demo: $(VENV)/.installed
	rm -rf $(OUT)
	$(BIN)/jirgee train samples -o $(OUT)/checkpoint
	$(BIN)/jirgee export $(OUT)/checkpoint -o $(OUT)/bundle --data samples/dev.tsv
	$(BIN)/jirgee score $(OUT)/bundle samples/tweets.csv -o $(OUT)/scored.csv
	$(BIN)/python -m benchmarks.demo --checkpoint $(OUT)/checkpoint --bundle $(OUT)/bundle --data samples \
	  --scored $(OUT)/scored.csv --texts samples/tweets.csv -o $(OUT)/report.html

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

install: $(VENV)/.installed

# torch goes first and alone, so that nothing else decides which build of it comes.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,train,export,serve,report,parquet,zstd,ray,dev]'
	touch $@

# The peers are many and large, so only make bench installs them.
$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

clean:
	rm -rf $(OUT)
