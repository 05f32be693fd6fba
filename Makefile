# `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# DVC runs the first `python` on the path.
export PATH := $(CURDIR)/$(BIN):$(PATH)

MODEL := models/phantom_3d
SEGMENT := python -m monai.bundle run --config_file $(MODEL)/configs/inference.yaml --bundle_root $(MODEL)
DEMO_CASE := p009_a

.DEFAULT_GOAL := help
.PHONY: help setup demo repro test check lint wheel clean lock

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv from requirements.lock; a second time costs nothing

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version) found, 3.11 or later wanted; set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

demo: setup ## the whole line on the embedded phantom: train in 3D and 2D, report, segment NIfTI and DICOM
	dvc repro track@phantom_3d track@phantom_2d
	$(SEGMENT) --input data/raw/phantom_3d/imagesTr/$(DEMO_CASE).nii.gz --output_dir out/demo/nifti
	$(SEGMENT) --input data/raw/phantom_3d/dicom/$(DEMO_CASE) --output_dir out/demo/dicom
	@echo
	@echo "Scores:        dvc metrics show"
	@echo "Reports:       reports/phantom_3d/index.html, reports/phantom_2d/index.html"
	@echo "Segmentations: out/demo/nifti, out/demo/dicom (segmentation.nii.gz, report.json, preview.png; of DICOM segmentation.dcm)"
	@echo "Runs:          $(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db"

repro: setup ## reproduce one experiment: make repro EXPERIMENT=hippocampus_3d
	@test -n "$(EXPERIMENT)" || { echo "error: no EXPERIMENT given; make repro EXPERIMENT=NAME, a folder in configs/"; exit 1; }
	@python -m pipeline run --experiment "$(EXPERIMENT)"

check: setup ## ruff, mypy --strict, import rules
	ruff check .
	mypy
	lint-imports

# A worker for each core, of one thread: more would wait for each other. What a file sets up is set up once.
test: check ## checks and tests
	OMP_NUM_THREADS=1 pytest -n auto --dist loadfile

wheel: setup ## the project's wheel, into dist/
	python -m build --wheel --outdir dist .

lock: ## write requirements.lock anew from what pyproject.toml asks for (needs a package index)
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 ".[train,dev,archive]"
	build/lock/bin/pip freeze --all --exclude pip --exclude segline | sed 's/+cpu$$//' > requirements.lock

clean: ## remove everything made here but raw data that was fetched
	rm -rf $(VENV) work models reports build dist *.egg-info mlflow.db mlartifacts mlruns dvc_plots .dvc/cache .dvc/tmp \
	  out data/raw/phantom_2d data/raw/phantom_3d .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
