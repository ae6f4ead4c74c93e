# make fit   installs what is needed and runs the main job: learn the sample, test on unseen molecules
# make test  installs what is needed and runs the test suite; make test-slow the tests that take minutes
# Both can be repeated; neither needs the other. PYTHON=python3.11 chooses another interpreter (3.10 or newer).
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m

.PHONY: fit test test-slow lint clean

fit: $(VENV)/.installed
	$(RUN) schnorb_t.fit --config configs/sample.yaml $(ARGS)

test: $(VENV)/.installed
	$(RUN) pytest -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed
	$(RUN) pytest -m slow --timeout 1800 $(ARGS)

lint: $(VENV)/.installed
	$(RUN) ruff check .
	$(RUN) ruff format --check .

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "schnorb_t needs Python 3.10 or newer"'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[pyscf,dask,sample,test]"
	touch $@

clean:
	rm -rf $(VENV) *.egg-info
