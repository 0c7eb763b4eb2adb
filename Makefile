# SPDX-License-Identifier: GPL-2.0
#
# The front door: each target is a thin name for a script of scripts/, which
# can be called alone too. rust/Makefile builds the module for whoever has a
# prepared kernel.

# release is for use and figures, debug has the kernel's own checkers.
KERNEL ?= release
# SECONDS: how long to fuzz each target.
SECONDS ?= 60
# DEBUG_LANE: part or whole, to run harness, vdpa and differential tests on the debug kernel too.
DEBUG_LANE ?=
# T: which tests, part of layer/name or a pattern with *.
T ?=

export KERNEL
ifdef KDIR
export KDIR
endif

.DEFAULT_GOAL := help
.PHONY: setup kernel module build demo test nightly mutants fuzz in-tree bench bench-check compare
.PHONY: known-test debug-module kunit-module shell lint fmt clean help paths

## setup: install what is missing, fetch and build the kernel (once)
setup:
	@scripts/setup

## kernel: the kernel alone
kernel:
	@scripts/setup --tools
	@scripts/kernel-build $(KERNEL)

## module: the kernel module, into build/module-$(KERNEL)
module: setup
	@scripts/module $(KERNEL)

## build: the module, the launcher and the test programs
build: module
	@scripts/test-disk $(KERNEL)
	@scripts/build

## demo: boot a guest whose disk the module serves, and watch it work
demo: build
	@scripts/demo

## test: all tests, or those that match T=<part of layer/name>
test: $(if $(T),known-test) build $(if $(DEBUG_LANE),debug-module) $(if $(DEBUG_LANE)$(filter kunit/%,$(T)),kunit-module)
	@scripts/test $(if $(DEBUG_LANE),--debug-lane $(DEBUG_LANE)) $(if $(T),'$(T)')

## nightly: all tests, as often as proves most, and again on the debug kernel
nightly:
	@VBLK_LONG=1 $(MAKE) --no-print-directory test DEBUG_LANE=whole

# Before minutes of building; a machine without Python has nothing built yet.
known-test:
	@[ ! -x /usr/bin/python3 ] || scripts/test --check-names '$(T)'

debug-module:
	@$(MAKE) --no-print-directory KERNEL=debug module
	@scripts/test-disk debug

kunit-module:
	@$(MAKE) --no-print-directory KERNEL=debug setup
	@scripts/module --kunit

## mutants: take one defence at a time out, and show that a test notices (or those that match T)
mutants: build
	@scripts/mutants $(if $(T),'$(T)')

## fuzz: fuzz the parser and the launcher's disks, each target for SECONDS
fuzz:
	@scripts/setup --fuzz
	@scripts/fuzz $(SECONDS)

## in-tree: build the module as a part of a kernel's source tree
in-tree:
	@scripts/setup --tools
	@scripts/in-tree

## bench: figures, into build/bench/results.json; PROFILE=1 T=CASE shows where one comes from
bench: build
	@scripts/$(if $(PROFILE),profile,bench) $(if $(T),'$(T)')

## bench-check: fail where a request costs more instructions than it did
bench-check: build
	@scripts/bench-check

## compare: with other back-ends, into build/compare/report.html (see scripts/compare --help)
compare: build
	@scripts/compare $(if $(filter 1,$(YES_DESTROY)),--yes-destroy)

## shell: a shell in L1, the machine that has the module loaded
shell: build
	@scripts/l1 --tty --timeout 0 --kernel $(KERNEL) -- bash --norc -i

## lint: formatting, clippy, shellcheck and the rules of this project
lint:
	@scripts/setup --tools
	@scripts/lint

## fmt: format all Rust code
fmt:
	@scripts/setup --tools
	@scripts/lint --fix

## clean: remove build/ (the cache with the kernels stays)
clean:
	@rm -rf build

## paths: KERNEL=, KDIR=, MODULE= and VBLK= lines for other tools
paths:
	@scripts/paths $(KERNEL)

## help: this list
help:
	@echo 'make TARGET [KERNEL=release|debug] [KDIR=<prepared kernel tree>]'
	@echo
	@sed -n 's/^## \([a-z-]*\): \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14
	@echo
	@echo 'First time: make demo'
