# The workbench's commands. They write inside this folder only (pip's cache aside), and work with
# GNU make 3.81 and later. Without make, README.md gives the two pip lines.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

PY := .venv/bin/python
# Bytecode is left to the first run, which writes it for what it uses: that halves the install.
INSTALL = $(PY) -m pip install --disable-pip-version-check --no-input --no-compile -c constraints.txt
unexport PYTHONDONTWRITEBYTECODE

comma := ,
LAB_SETTINGS := .venv/share/jupyter/lab/settings/overrides.d

# Nothing of the user's own Jupyter, IPython or Python reaches the environment, or is written to.
export JUPYTER_PREFER_ENV_PATH := 1
export JUPYTER_CONFIG_DIR := $(CURDIR)/.cache/jupyter/config
export JUPYTER_DATA_DIR := $(CURDIR)/.cache/jupyter/data
export JUPYTER_RUNTIME_DIR := $(CURDIR)/.cache/jupyter/runtime
export IPYTHONDIR := $(CURDIR)/.cache/ipython
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
# JupyterLab asks npm, where there is one, for language servers, and npm keeps a log of that.
export npm_config_cache := $(CURDIR)/.cache/npm
unexport JUPYTER_PATH JUPYTER_CONFIG_PATH PYTHONHOME PYTHONPATH PYTHONSTARTUP
# `user = true` in somebody's pip configuration would make every install in an environment fail.
export PIP_USER := 0

## report    pull the data, run every notebook, write reports/index.html (EXTRAS=llm: those that need it)
report: .venv/.workbench $(EXTRAS:%=.venv/.extra-%)
	$(PY) -m fedlab.workbench report $(P)

## run       run one notebook: make run NB=04 P='-p alpha 0.1'
run: .venv/.workbench
	$(if $(NB),,$(error Which notebook? For example: make run NB=04 P='-p alpha 0.1'))
	$(PY) -m fedlab.workbench run $(NB) $(P)

## lab       open JupyterLab on the index notebook
lab: .venv/.workbench $(LAB_SETTINGS)/fedlab.json
	$(PY) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" \
	  --ServerApp.kernel_spec_manager_class=fedlab.workbench.batch.jupyter.OwnKernelSpecs \
	  --LabApp.default_url=/lab/tree/notebooks/00_index.ipynb $(P)

## data      pull the data, and run nothing
data: .venv/.workbench
	$(PY) -m fedlab.data pull $(P)

## docs      write the how-to pages and the reference to reports/docs
docs: .venv/.docs
	$(PY) -m sphinx -q -W --keep-going -d .cache/docs $(P) docs reports/docs
	@echo "The pages stand in reports/docs/index.html."

## test      check style and types, and run all tests (in two processes; P='-n 0': in one)
test: .venv/.test .venv-flower/.done
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -m pytest -n 2 --dist loadfile $(if $(FEDLAB_CI),-p tests.no_skips) $(P)

## flower    make .venv-flower: Flower, for a real network (see docs/take_it_to_a_network.md)
flower: .venv-flower/.done

## clean     remove reports and caches; data and .venv stay
clean:
	test ! -d reports || find reports -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	find . -name '.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +
	rm -rf .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist

## python    say which Python .venv would be made with
python:
	@echo "$(call found,$(PYTHON_FOUND))"

## pins      write both files of pins anew after a change of pyproject.toml (P=--upgrade: the newest)
pins: .venv/.workbench
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(COMPILE) $(EXTRA_NAMES:%=--extra %) $(P) --output-file constraints.txt pyproject.toml
	@# What torch takes for CUDA is left to who wants it.
	sed -i.old -E '/^(nvidia|cuda|triton)/d' constraints.txt && rm constraints.txt.old
	@# Flower goes with other versions of some packages; what bits depend on is the same.
	mkdir -p .cache && grep -E '^($(BASE_NAMES))==' constraints.txt >.cache/base.txt
	$(COMPILE) --extra flower --constraint .cache/base.txt $(P) \
	  --output-file constraints-flower.txt pyproject.toml

COMPILE = $(PY) -m uv pip compile --quiet --universal --fork-strategy fewest --annotation-style line \
  --custom-compile-command 'make pins'
EXTRA_NAMES := $(filter-out flower,$(shell sed -n \
  '/^\[project.optional-dep/,/^\[project.scripts/s/^\([a-z]*\) = \[.*/\1/p' pyproject.toml))
BASE_NAMES := $(subst $() $(),|,$(strip $(shell sed -n \
  '/^dependencies = \[/,/^\]/s/^ *"\([a-z-]*\)>.*/\1/p' pyproject.toml)))

help:
	@sed -n 's/^## /  make /p' Makefile
	@echo
	@echo "P='...' hands further words on to the command. PYTHON=/path/to/python3 chooses the Python"
	@echo "that .venv is made with ($(REQUIRES))."

.PHONY: report run lab data docs test flower clean python pins help

# --- The environment -----------------------------------------------------------------------------

# A stamp is written after its install, so that one which was interrupted is done again.
.venv/.workbench: pyproject.toml constraints.txt .venv/bin/activate
	@echo "Installing what the notebooks need (a minute or two, once) ..."
	@rm -f .venv/.workbench .venv/.test .venv/.docs
	$(INSTALL) -e '.[workbench]'
	@touch $@

# Extras that some notebooks need: make report EXTRAS=llm
.venv/.extra-%: .venv/.workbench
	@echo "Installing the extra $* (once) ..."
	$(INSTALL) -e '.[$*]'
	@touch $@

# Else JupyterLab's first word to a newcomer is a question about its own news.
$(LAB_SETTINGS)/fedlab.json: .venv/.workbench
	@mkdir -p $(LAB_SETTINGS)
	@echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' >$@

.venv/.test: pyproject.toml constraints.txt .venv/bin/activate
	@echo "Installing what the notebooks and the tests need (a minute or two, once) ..."
	@rm -f .venv/.workbench .venv/.test .venv/.docs
	$(INSTALL) -e '.[workbench,test$(if $(FEDLAB_CI),$(comma)annoy$(comma)torch$(comma)llm)]'
	@touch .venv/.workbench $@

.venv/.docs: pyproject.toml constraints.txt .venv/bin/activate
	@echo "Installing what the notebooks and the pages need (a minute or two, once) ..."
	@rm -f .venv/.workbench .venv/.test .venv/.docs
	$(INSTALL) -e '.[workbench,docs]'
	@touch .venv/.workbench $@

.venv/.extra-flower: .venv-flower/.done
	@touch $@

# Beside the other: Flower does not go with all of its pins.
.venv-flower/.done: pyproject.toml constraints-flower.txt .venv/bin/activate
	@echo "Installing Flower into .venv-flower (a minute or two, once) ..."
	@$(PY) -m venv --clear .venv-flower
	.venv-flower/bin/python -m pip install --disable-pip-version-check --no-input \
	  -c constraints-flower.txt -e '.[flower]'
	@touch $@

# The last file that `venv` writes. An environment is bound to its folder and to its interpreter:
# where either has gone, it is made anew.
STANDS := $(shell grep -sqF "$(CURDIR)/.venv" .venv/bin/activate && $(PY) -c 'import pip; print(1)')
ifneq ($(STANDS),1)
.PHONY: .venv/bin/activate
endif
.venv/bin/activate:
	@echo "Making .venv with $(call found,$(PYTHON_FOUND)) ..."
	@"$(PYTHON_FOUND)" -m venv --clear .venv

# --- The interpreter -----------------------------------------------------------------------------

REQUIRES := Python $(shell sed -n 's/^requires-python = "\(.*\)"/\1/p' pyproject.toml)
SUITS := $(shell sed -n \
  's/^requires-python = ">=3\.\([0-9]*\),<3\.\([0-9]*\)"/(3, \1) <= v < (3, \2)/p' pyproject.toml)

# What an interpreter answers when asked: "3.8", "3.12 suits", "3.12 suits, venv too". A candidate is
# run rather than looked up, because a version manager's shim stands on the path and doesn't run.
ASK := import sys; v = sys.version_info[:2]; say = sys.stdout.write; say("%d.%d" % v); \
  $(SUITS) or sys.exit(); say(" suits"); import ensurepip, venv; say(", venv too")

define FIND
for python in $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3.14 python3 python); do \
  answer=`"$$python" -c '$(ASK)' 2>/dev/null`; \
  version=$${answer%% *}; \
  case "$$answer" in \
    *"venv too") echo "$$python"; exit;; \
    *suits) why="$$why; $$python ($$version) has no venv (on Debian or Ubuntu: apt install python$$version-venv)";; \
    ?*) why="$$why; $$python is $$version";; \
    *) test -z "$(PYTHON)" || why="; $$python does not run";; \
  esac; \
done; echo "none$${why:-; no python3 on the path runs}"
endef

# Looked for once, and only when it is needed.
PYTHON_FOUND = $(eval PYTHON_FOUND := $$(shell $$(FIND)))$(PYTHON_FOUND)
found = $(if $(filter none;,$(firstword $1)),$(error fedlab needs $(REQUIRES), with venv; $(wordlist 2,99,$1). Install one, or name one: PYTHON=/path/to/python3),$1)
