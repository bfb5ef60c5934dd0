# Thin wrapper: every target can be run by hand with the line that it prints.
PYTHON ?= python3
CONFIG ?= config/config.yaml
CORES ?= all
# A profile, such as workflow/profiles/slurm, determines where jobs run and the number of cores.
PROFILE ?=
KILLS ?= 100
BIN := .venv/bin
PUBLISHED := results/published
SNAKEMAKE = snakemake $(if $(PROFILE),--workflow-profile $(PROFILE),--cores $(CORES)) --configfile "$(CONFIG)"
FOLDER = $$($(BIN)/neuroprune plan --config "$(CONFIG)" --folder)
export TOKENIZERS_PARALLELISM = false
export HF_HUB_DISABLE_TELEMETRY = 1
# Without cached bytecode, every start of a job would compile torch and transformers again: 11 s of a core in place of 5 s.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL: # results must precede their report
.PHONY: help demo run report figures publish verify test test-oldest large soak lint format bench gpu-timing docs lock audit clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# One set-up for all targets, repeated only when the pins change. The mark is written last, after success.
$(BIN)/.ready: requirements.lock
.venv-oldest/bin/.ready: requirements-oldest.lock
.venv-docs/bin/.ready: requirements-docs.lock
%/bin/.ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is %s: make PYTHON=/path/to/python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $*
	$*/bin/pip install --quiet --no-compile --disable-pip-version-check -r $^
	$*/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

.venv: $(BIN)/.ready ## Set up the environment (the other targets do it themselves)

demo: run report ## Run the default study to its report; CONFIG=config/paper.yaml for another one

# The plan comes first, because its errors contain file and line, unlike those of Snakemake.
# A kernel lock prevents two simultaneous starts, so that the lock of a killed Snakemake can be cleared safely. Without
# `flock`, Snakemake's own lock is used, whose message explains what to do after a kill.
# The workflow makes no report here, because the target `report` does so even if nothing else had to be done.
run: export NEUROPRUNE_REPORT =
run: $(BIN)/.ready ## Run a study without its report
	@$(BIN)/neuroprune plan --config "$(CONFIG)" $(if $(PROFILE),--folder >/dev/null,--estimate --cores $(CORES))
	@if ! command -v flock >/dev/null; then . $(BIN)/activate && exec $(SNAKEMAKE); fi; \
	  flock -n -E 75 .run.lock sh -c '. $(BIN)/activate && snakemake --configfile "$(CONFIG)" --unlock --quiet all >/dev/null 2>&1; \
	  exec $(SNAKEMAKE)' || { code=$$?; [ $$code != 75 ] || \
	  echo "Another 'make run' or 'make demo' is at work in this folder: wait for it or stop it." >&2; exit $$code; }

report: $(BIN)/.ready ## Write the HTML report of a finished study
	@folder="$(FOLDER)" && . $(BIN)/activate && \
	snakemake --quiet all --configfile "$(CONFIG)" --report "$$folder/report.html" \
	  --report-stylesheet workflow/report/report.css && echo "The report: $$folder/report.html"

figures: $(BIN)/.ready ## Redraw all tables and figures from the records; RESULTS=results/published for the committed ones
	@folder="$(FOLDER)" && $(BIN)/neuroprune redraw --study "$(if $(RESULTS),$(RESULTS)/$${folder##*/},$$folder)"

publish: $(BIN)/.ready ## Copy a study's records, tables and figures to results/published/, to be committed
	@folder="$(FOLDER)" && study="$${folder##*/}" && \
	{ test -f "$$folder/runs.csv" || { echo "$$folder has no runs.csv: run the study first." >&2; exit 1; }; } && \
	rm -rf $(PUBLISHED)/.new && mkdir -p $(PUBLISHED) && cp -r "$$folder" $(PUBLISHED)/.new && \
	( cd $(PUBLISHED)/.new && rm -rf logs jobs report.html runs/*/model runs/*/*.log runs/*/.lock runs/*/checkpoint* figures/*.png ) && \
	rm -rf "$(PUBLISHED)/$$study" && mv $(PUBLISHED)/.new "$(PUBLISHED)/$$study" && echo "To be committed: $(PUBLISHED)/$$study"

verify: $(BIN)/.ready ## Retrain N=3 random published runs and compare them with their records; STUDY=demo for one study
	$(BIN)/neuroprune verify --number $(or $(N),3) $(if $(STUDY),$(PUBLISHED)/$(STUDY))

test: $(BIN)/.ready ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest

test-oldest: .venv-oldest/bin/.ready ## Run the tests with the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 .venv-oldest/bin/pytest

large: $(BIN)/.ready ## Train two steps of a model of 300 M parameters within 12 GiB
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 0 -s -m large tests/training/test_large.py

soak: $(BIN)/.ready ## Kill a small study 100 times at random, restart it, compare its results; KILLS=10 for fewer; continues after a stop
	PYTHONPATH="$(CURDIR):$(CURDIR)/tests" OMP_NUM_THREADS=1 $(BIN)/python tests/workflow/soak.py --folder .soak --kills $(KILLS)

lint: $(BIN)/.ready ## Style, types, docstrings, import directions, workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pydoclint --quiet --config pyproject.toml neuroprune
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/pytest -n 0 tests/test_house.py
	$(BIN)/snakefmt --check --compact-diff Snakefile workflow/rules
	@. $(BIN)/activate && snakemake --lint

format: $(BIN)/.ready ## Reformat the files with ruff and snakefmt
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

bench: $(BIN)/.ready ## Time a step of every method, the events, whole runs and the command line; OUT=file.csv keeps the numbers
	$(BIN)/python -m benchmarks.bench $(if $(OUT),--out $(OUT))

gpu-timing: $(BIN)/.ready ## Time steps and inference of base-size models on a GPU, to results/gpu-timing; CPU=1 allows a CPU
	@$(BIN)/python -m benchmarks.gpu $(if $(CPU),--cpu)
	@$(MAKE) --no-print-directory run CONFIG=config/gpu_timing.yaml $(if $(CPU),CORES=1) && cat results/gpu-timing/tables/timing.md

# Not --quiet: MkDocs does not count the warnings it does not print, so dead links would pass.
docs: $(BIN)/.ready .venv-docs/bin/.ready ## Generate config/schema.json and config/README.md; build the site
	$(BIN)/neuroprune schema
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "The site: site/index.html; with its search: python3 -m http.server -d site"

# Not pinned: packages for one kind of GPU.
ANY_GPU = grep -v -i -E '^(nvidia-|triton|cuda-|neuroprune)' | sed -E 's/\+[a-z0-9]+$$//'
FREEZE = .venv-lock/bin/pip freeze --exclude-editable | $(ANY_GPU)

lock: ## Resolve the newest versions that pyproject.toml allows, and the lowest, and pin them
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet --disable-pip-version-check -e '.[dev,onnx,gguf]'
	{ echo "# Exact versions of everything, tests and linters included. Made by 'make lock'."; $(FREEZE); } > requirements.lock
	.venv-lock/bin/pip install --quiet --disable-pip-version-check -e '.[slurm]'
	{ echo "# Snakemake's plugin for SLURM, on top of requirements.lock. Made by 'make lock'."; \
	  $(FREEZE) | grep -v -x -F -f requirements.lock; } > requirements-slurm.lock
	.venv-lock/bin/pip install --quiet --disable-pip-version-check uv
	{ echo "# The lowest versions that pyproject.toml allows, for 'make test-oldest'. Made by 'make lock'."; \
	  .venv-lock/bin/uv pip compile --quiet --resolution lowest-direct --prerelease disallow --extra test --extra onnx \
	  --no-annotate --no-header pyproject.toml | $(ANY_GPU); } > requirements-oldest.lock
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet --disable-pip-version-check $$($(PYTHON) -c "import tomllib; \
	  print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])")
	{ echo "# The documentation site, in an environment of its own. Made by 'make lock'."; $(FREEZE); } > requirements-docs.lock
	rm -rf .venv-lock
	$(MAKE) environment.yml

# In an environment of its own, and not pinned: only the newest version knows where to look.
audit: ## Look up known vulnerabilities of all pinned versions; needs access to pypi.org
	rm -rf .venv-audit && $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --no-deps --disable-pip --strict $(foreach lock,requirements requirements-docs requirements-slurm,-r $(lock).lock)
	rm -rf .venv-audit

environment.yml: requirements.lock
	@{ printf '%s\n' "# The same pins for conda users. Made from requirements.lock by 'make environment.yml'." \
	  "# Use: conda env create -f environment.yml && conda activate neuroprune && pip install --no-deps -e ." \
	  "name: neuroprune" "channels: [conda-forge, nodefaults]" "dependencies:" "  - python=3.11" "  - pip" "  - pip:"; \
	  grep -v '^#' requirements.lock | sed 's/^/      - /'; } > $@

clean: ## Remove results and downloads; the environment and results/published stay
	rm -rf resources .snakemake .soak
	@test ! -d results || find results -mindepth 1 -maxdepth 1 ! -name published -exec rm -rf {} +
