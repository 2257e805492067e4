# Needs python3 (3.11 or newer), git, make and a C compiler. `make` alone lists the targets.
BIN := .venv/bin
UV = $(shell command -v uv || echo .uv/bin/uv)
READY := .venv/.ready

# Without compiled files every process of the tests would compile torch again, which takes seconds.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
# Not reproduce-TARGET: make looks for no pattern rule for what is phony.
.PHONY: help setup demo test check check-install check-versions lint types docs docs-serve gallery format benchmark \
	tables verify-results reproduce-mtnet

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z %-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything that running and testing need

demo: setup ## train MAML on the sinusoid (a minute or two), show its result and a picture
	@folder="outputs/demo/$$(date +%Y-%m-%d_%H-%M-%S)" && \
	$(BIN)/metarun algo=maml data=sinusoid run.iterations=6000 device.threads=1 hydra.run.dir="$$folder" && \
	echo "A held-out sinusoid before and after adaptation: $$folder/adapted_curves.png"

SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder
TESTS := -m "not slow and not reproduce and not install" $(SIDE_BY_SIDE)

test: setup ## all tests but those that take over two seconds: ten minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest $(TESTS)

check: lint types docs setup ## lint, types, the site, and the tests of make test with the slow ones: twenty minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not reproduce and not install" $(SIDE_BY_SIDE)

check-install: setup ## pip installs the wheel into fresh environments of every Python at hand (gigabytes each)
	$(BIN)/pytest -m install -s tests/test_wheel.py

check-versions: setup ## the tests on the oldest and the newest versions that pyproject.toml admits (gigabytes each)
	for versions in lowest-direct highest; do \
		$(UV) venv --quiet --clear .versions/$$versions && \
		$(UV) pip install --quiet --python .versions/$$versions --resolution $$versions \
			$$([ $$versions = highest ] && echo --exclude-newer $$(date +%F)) -e '.[dev]' && \
		OMP_NUM_THREADS=1 .versions/$$versions/bin/python -m pytest $(TESTS) || exit 1; \
	done

lint: setup ## ruff: errors, imports, complexity, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy
	$(BIN)/mypy

# material says on every build that a successor is coming.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

docs: setup ## build the site into site/; a broken link, anchor or reference fails
	$(MKDOCS) build --strict
	@echo "The site: site/index.html"

docs-serve: setup ## show the site on http://127.0.0.1:8000 while its pages are written
	$(MKDOCS) serve

gallery: setup ## draw tasks of every data set, and make the gallery's runs and pictures (ten minutes; needs the data)
	$(BIN)/python -m scripts.docs.gallery

format: setup ## put the code into ruff's form
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

tables: setup ## render the tables of README.md, REPLICATION.md and docs/results.md from docs/results
	$(BIN)/python -m scripts.results.main

verify-results: setup ## run N cheap recorded cells, drawn at random, again and compare (N=5, SEED=0)
	$(BIN)/python -m scripts.results.verify --cells $(or $(N),5) $(if $(SEED),--seed $(SEED))

benchmark: setup ## speed beside learn2learn's, one process each in turn
	$(BIN)/python -m scripts.benchmark.main

# Made again only when pyproject.toml changes: the stamp says for which one it stands.
$(READY): pyproject.toml
	@command -v uv >/dev/null || [ -x .uv/bin/uv ] || \
		{ python3 -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv; }
	$(UV) sync --extra dev
	@touch $@

# sinusoid, omniglot, miniimagenet; small, omniglot15, miniimagenet20, superclasses, protonet; memory, optimizers;
# ambiguous, few_tasks, bayes, alpaca; gradient, transfer, verification
reproduce-%: setup ## measure again what REPLICATION.md says: reproduce-sinusoid and others, see the Makefile
	$(BIN)/python -m scripts.reproduce.main $* --jobs $(or $(JOBS),1)

reproduce-mtnet: setup ## MT-net's paper where two cores can: tables and figures (REPLICATION.md)
	$(BIN)/python -m scripts.reproduce.mtnet.main
