# `make demo` and `make test` set themselves up. What a user may choose (`make help` says more):
STACK ?= openmmlab
VENV ?= $(if $(filter onedl,$(STACK)),.venv-onedl,.venv)
TORCH ?=
OPS ?=
SEED ?=
PYTEST_OPTIONS ?=
PYTHON = python3.12 python3.11 python3.13 python3.10 python3
RUN = "$(VENV)/bin/python"
# OneDL's DINO has larger layers than MMDetection's, and their UPerNet configs name other weights.
onedl_DIFFERS = --deselect 'tests/configs/test_configs.py::test_builds_with_as_many_parameters_as_the_paper_has[dino_' \
	--deselect 'tests/configs/test_segmentation_recipes.py::test_swin_and_resnet_are_mmsegmentations[upernet_swin_' \
	--deselect tests/models/test_segmentation_losses.py::test_mmsegmentations_fails
PYTEST = $(RUN) -m pytest -q $($(STACK)_DIFFERS) $(PYTEST_OPTIONS)
# Triton's interpreter computes with NumPy, and untrusted files are never computed with.
NUMERICAL = tests/ops tests/models tests/weights -m 'not slow and not configs' \
	--ignore=tests/ops/focal_attention/test_triton.py --ignore=tests/weights/test_untrusted_files.py

help:
	@echo 'make demo         train a small detector on generated shapes, about 10 minutes on 2 cores [SEED=NUMBER]'
	@echo 'make test         the tests'
	@echo 'make test-slow    tests that take long, mostly of several processes'
	@echo 'make test-configs a training step and a prediction with every config, about 10 minutes on 2 cores'
	@echo 'make test-cpus    the numerical tests without AVX-512, and without AVX2'
	@echo 'make lint         ruff and mypy'
	@echo 'make install      only the set-up, which the others do by themselves'
	@echo 'make docs         the documentation, into site/'
	@echo 'make clean        remove .venv and what was built, but not work_dirs/ and data/'
	@echo
	@echo 'VENV=PATH         the environment, created if it does not exist (.venv); a torch in it stays;'
	@echo '                  for the active one: make VENV="$$VIRTUAL_ENV" or make VENV="$$CONDA_PREFIX"'
	@echo 'TORCH=2.8.0       torch of a new environment, a version or what pip takes (requirements/tested.txt)'
	@echo 'OPS=compile       compile the operators of MMCV, 10 minutes on 2 cores; default: mmfocal.ops.mmcv_ops'
	@echo "STACK=onedl       OneDL's forks of OpenMMLab's libraries, in .venv-onedl"
	@echo 'PYTHON=PATH       Python of a new environment, 3.10 to 3.13 ($(PYTHON))'

# With the environment's Python or, before it is there, the first of $(PYTHON) that runs and is supported.
install:
	@for python in $(RUN) $(PYTHON); do \
		if "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then \
			exec "$$python" tools/install/install.py --venv "$(VENV)" --torch "$(TORCH)" --stack "$(STACK)" --ops "$(OPS)"; \
		fi; \
	done; \
	echo 'mmfocal set-up: none of these is Python 3.10 to 3.13: $(PYTHON);' \
		'install one of them, or name it with PYTHON=PATH' >&2; \
	exit 1

demo: install
	$(RUN) tools/demo.py $(if $(SEED),--seed $(SEED))

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

test: install
	$(PYTEST) -m 'not slow and not configs'

# pytest's exit code 5: there is none.
test-slow: install
	$(PYTEST) -m slow || [ $$? -eq 5 ]

test-configs: install
	$(PYTEST) -m configs

# PyTorch chooses kernels by what the CPU can; these are what other CPUs choose.
test-cpus: install
	ATEN_CPU_CAPABILITY=default $(PYTEST) $(NUMERICAL)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) $(NUMERICAL)

# The site's environment needs neither torch nor OpenMMLab: mkdocstrings reads the source.
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

.venv-docs/installed: requirements/docs.txt
	for python in $(RUN) $(PYTHON); do "$$python" -m venv .venv-docs 2>/dev/null && break; done
	.venv-docs/bin/pip install -q -r requirements/docs.txt
	touch $@

clean:
	rm -rf .venv .venv-onedl .venv-docs site build dist mmfocal.egg-info
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache .coverage
	find mmfocal tests tools -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help install demo lint test test-slow test-configs test-cpus docs clean
