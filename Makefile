# `make demo` and `make test` set themselves up. What a user may choose (`make help` says more):
VENV ?= .venv
TORCH ?=
SEED ?=
PYTHON = python3.12 python3.11 python3
RUN = "$(VENV)/bin/python"

help:
	@echo 'make demo         train a small detector on drawn shapes, about 10 minutes on 2 cores [SEED=NUMBER]'
	@echo 'make test         the tests'
	@echo 'make test-slow    tests that take long, mostly of several processes'
	@echo 'make test-configs a training step and a prediction with every config, about 10 minutes on 2 cores'
	@echo 'make install      only the set-up, which the others do by themselves'
	@echo 'make docs         the documentation, into site/'
	@echo 'make clean        remove .venv and what was built, but not work_dirs/ and data/'
	@echo
	@echo 'VENV=PATH         the environment, made if it is not there (.venv); a torch in it stays;'
	@echo '                  for the active one: make VENV="$$VIRTUAL_ENV" or make VENV="$$CONDA_PREFIX"'
	@echo 'TORCH=2.8.0       torch of a new environment, a version or what pip takes (requirements/tested.txt)'
	@echo 'PYTHON=PATH       Python of a new environment, 3.11 or 3.12 ($(PYTHON))'

# With the environment's Python or, before it is there, the first of $(PYTHON) that runs and is 3.11 or 3.12.
install:
	@for python in $(RUN) $(PYTHON); do \
		if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then \
			exec "$$python" tools/install/install.py --venv "$(VENV)" --torch "$(TORCH)"; \
		fi; \
	done; \
	echo 'mmfocal set-up: Python 3.11 or 3.12 is needed, and none of these is one: $(PYTHON);' \
		'install it, or name it with PYTHON=PATH' >&2; \
	exit 1

demo: install
	$(RUN) tools/demo.py $(if $(SEED),--seed $(SEED))

test: install
	$(RUN) -m pytest -q -m 'not slow and not configs'

# pytest's exit code 5: there is none.
test-slow: install
	$(RUN) -m pytest -q -m slow || [ $$? -eq 5 ]

test-configs: install
	$(RUN) -m pytest -q -m configs

# The site's environment needs neither torch nor OpenMMLab: mkdocstrings reads the source.
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

.venv-docs/installed: requirements/docs.txt
	for python in $(RUN) $(PYTHON); do "$$python" -m venv .venv-docs 2>/dev/null && break; done
	.venv-docs/bin/pip install -q -r requirements/docs.txt
	touch $@

clean:
	rm -rf .venv .venv-docs site build dist mmfocal.egg-info .pytest_cache .hypothesis
	find mmfocal tests tools -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help install demo test test-slow test-configs docs clean
