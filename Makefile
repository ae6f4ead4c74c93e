# make fit   installs what is needed and runs the main job: learn the sample, test on unseen molecules
# make test  installs what is needed and runs the test suite; make test-slow the tests that take minutes
# make qm9 QM9=geometries.npz.xz   labels 600 molecules of QM9 (hours), trains configs/qm9.yaml (hours), tests
# make gfn2 QM9=...                       trains the prior that configs/qm9.yaml takes from the package (GFN2-xTB labels)
# make organic POOL=molecules.csv QM9=...  geometries, labels, pretraining, training and doubt of organic (days)
# make lint  style, types, workflow files; make test-lowest  the test suite with the lowest versions of all dependencies
# make docs    the documentation as a site in site/, tutorials executed, warnings are errors
# make wheel   source distribution and wheel in dist/
# All can be repeated; neither needs the other. PYTHON=python3.11 chooses another interpreter (3.10 or newer).
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m

.PHONY: fit test test-slow qm9 gfn2 organic test-lowest lint docs wheel clean

fit: $(VENV)/.installed
	$(VENV)/bin/schnorb_t fit --config configs/sample.yaml $(ARGS)

test: $(VENV)/.installed
	$(RUN) pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: $(VENV)/.installed
	$(RUN) pytest -m slow --timeout 1800 $(ARGS)

qm9: data/qm9.h5
	$(VENV)/bin/schnorb_t fit --config configs/qm9.yaml $(ARGS)

# QM9's archive or its geometry table; 60 test, 40 validation, 500 training molecules. Killed, it goes on where it stopped.
data/qm9.h5: | $(VENV)/.installed
	mkdir -p data
	test -s data/qm9.xyz || $(VENV)/bin/schnorb_t qm9 $(QM9) -o data/qm9.xyz --ranks 0:600
	OMP_NUM_THREADS=1 $(VENV)/bin/schnorb_t label data/qm9.xyz -o data/qm9_part.h5 --target wqao
	mv data/qm9_part.h5 $@

gfn2: data/gfn2.h5
	$(VENV)/bin/schnorb_t fit --config configs/gfn2.yaml $(ARGS)

data/gfn2.h5: | $(VENV)/.installed
	mkdir -p data
	test -s data/gfn2.xyz || $(VENV)/bin/schnorb_t qm9 $(QM9) -o data/gfn2.xyz --ranks 600:6700
	OMP_NUM_THREADS=1 $(VENV)/bin/schnorb_t label-xtb data/gfn2.xyz -o data/gfn2_part.h5
	$(VENV)/bin/schnorb_t splits data/gfn2_part.h5 --fractions 0.98 0.01 0.01
	mv data/gfn2_part.h5 $@

# POOL: SMILES, a list or CSV; QM9: as above. PRETRAINED and ORGANIC are where Lightning leaves the two trainings.
PRETRAINED ?= runs/organic_gfn2/version_0/checkpoints/best.ckpt
ORGANIC ?= runs/organic/version_0/checkpoints/best.ckpt
organic: data/organic.h5 data/organic_gfn2.h5
	$(VENV)/bin/schnorb_t fit --config configs/organic.yaml --name organic_gfn2 --data.path data/organic_gfn2.h5 --trainer.max_epochs 4 --trainer.check_val_every_n_epoch 1
	$(VENV)/bin/schnorb_t fit --config configs/organic.yaml --model.start_from $(PRETRAINED) $(ARGS)
	$(VENV)/bin/schnorb_t calibrate $(ORGANIC) data/organic.h5 -o organic.ckpt

data/organic.xyz: | $(VENV)/.installed
	mkdir -p data
	$(VENV)/bin/schnorb_t geometries $(POOL) -o data/organic_part.xyz
	mv data/organic_part.xyz $@

data/organic.h5: data/organic.xyz
	test -s data/qm9.xyz || $(VENV)/bin/schnorb_t qm9 $(QM9) -o data/qm9.xyz --ranks 0:600
	OMP_NUM_THREADS=1 $(VENV)/bin/schnorb_t label data/organic.xyz data/qm9.xyz -o data/organic_part.h5 --target wqvo
	mv data/organic_part.h5 $@

data/organic_gfn2.h5: data/organic.xyz
	OMP_NUM_THREADS=1 $(VENV)/bin/schnorb_t label-xtb data/organic.xyz -o data/organic_gfn2_part.h5 --target wqvo
	$(VENV)/bin/schnorb_t splits data/organic_gfn2_part.h5 --fractions 0.98 0.01 0.01
	mv data/organic_gfn2_part.h5 $@

lint: $(VENV)/.installed
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(VENV)/bin/zizmor --offline --quiet --config .github/zizmor.yml .github

# needs Python 3.10, which all of these lowest versions have packages for
test-lowest: PYTHON := python3.10
test-lowest: pyproject.toml constraints-lowest.txt
	test -x $(VENV)-lowest/bin/python || $(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e ".[pyscf,dask,sample,xtb,select,test]"
	$(VENV)-lowest/bin/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile $(ARGS)

docs: $(VENV)/.installed
	$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs,select]"
	MPLBACKEND=agg OMP_NUM_THREADS=1 $(RUN) mkdocs build --strict --quiet

wheel: $(VENV)/.installed
	rm -rf dist build
	$(RUN) build --outdir dist .
	ls -l dist

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "schnorb_t needs Python 3.10 or newer"'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[pyscf,dask,sample,select,completion,browser,test]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest build dist site .cache *.egg-info
