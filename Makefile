# make demo          sets everything up and shows the main job working; stays up until Ctrl-C (ONCE=1: does not)
# make test          sets everything up and passes the tests: lint, types, import rules, unit, end to end
# make bench         measures beside the peers found on this machine (docs/performance.md)
# make sanitize      the transport's tests under gcc's address and undefined-behaviour sanitizers
# make debug-test    the same tests with the transport's assertions and Cython's checks
# make soak          an hour of hundreds of flows over loopback (SOAK_SECONDS: as many)

VENV := .venv/bin
PYTEST_ARGS ?=

.PHONY: demo test lint unit bench wheel sanitize debug-test soak clean

# Other builds of the extensions stand in folders of their own, and are imported from there.
checked_build = QUICSOCKS_BUILD=$(1) $(VENV)/python setup.py -q build --build-base build/$(1) --build-lib build/$(1)/lib
checked_run = env PYTHONPATH=build/$(1)/lib QUICSOCKS_TEST_BUILD=$(1) QUICSOCKS_TEST_SEEDS=$(CHECKED_SEEDS) \
	QUICSOCKS_TEST_FUZZ_ROUNDS=$(CHECKED_ROUNDS)
CHECKED_TESTS ?= tests/quic tests/netstack tests/fuzz tests/sim tests/socks tests/tunnel tests/userspace/test_relay.py
CHECKED_SEEDS ?= 0-249
CHECKED_ROUNDS ?= 100
SANITIZERS = $(shell $(CC) -print-file-name=libasan.so) $(shell $(CC) -print-file-name=libubsan.so)
# The interpreter keeps much until its end, which is no leak of ours. Its allocator would hide what is wrong with its objects.
# pytest's faulthandler must not take a signal from the sanitizer.
SANITIZED = LD_PRELOAD="$(SANITIZERS)" PYTHONMALLOC=malloc UBSAN_OPTIONS=print_stacktrace=1 \
	ASAN_OPTIONS=detect_leaks=0:handle_segv=2:handle_sigbus=2:handle_sigfpe=2

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
	$(VENV)/python -m $(if $(PYTEST_ARGS),pytest $(PYTEST_ARGS),tests.parallel)

bench:
	@contrib/bootstrap.sh test
	@$(VENV)/pip install -q --disable-pip-version-check -e '.[test,bench]'
	$(VENV)/python -m bench

wheel:
	$(VENV)/pip wheel -q --no-deps -w dist .

# What a sanitizer has to say goes to the process's own error output, which pytest must leave alone.
sanitize:
	@contrib/bootstrap.sh test
	@$(call checked_build,sanitize)
	@$(call checked_run,sanitize) $(SANITIZED) $(VENV)/pytest --capture=sys $(CHECKED_TESTS) $(PYTEST_ARGS)

debug-test:
	@contrib/bootstrap.sh test
	@$(call checked_build,debug)
	@$(call checked_run,debug) $(VENV)/pytest $(CHECKED_TESTS) $(PYTEST_ARGS)

soak:
	@contrib/bootstrap.sh test
	@QUICSOCKS_TEST_SOAK_SECONDS=$(or $(SOAK_SECONDS),3600) $(VENV)/pytest -s -o faulthandler_timeout=0 tests/soak

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache
