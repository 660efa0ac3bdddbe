# make demo          sets everything up and shows the main job working; stays up until Ctrl-C (ONCE=1: does not)
# make test          sets everything up and passes the tests: lint, types, import rules, unit, end to end
# make bench         measures beside the peers found on this machine (docs/performance.md)

VENV := .venv/bin
PYTEST_ARGS ?=

.PHONY: demo test lint unit bench wheel clean

demo:
	@contrib/bootstrap.sh demo
	@$(VENV)/quicsocks demo $(if $(ONCE),--once)

test:
	@contrib/bootstrap.sh test
	@$(MAKE) --no-print-directory lint unit

lint:
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy

unit:
	$(VENV)/pytest $(PYTEST_ARGS)

bench:
	@contrib/bootstrap.sh test
	@$(VENV)/pip install -q --disable-pip-version-check -e '.[test,bench]'
	$(VENV)/python -m bench

wheel:
	$(VENV)/pip wheel -q --no-deps -w dist .

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache
