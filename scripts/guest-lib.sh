# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What guest-run and guest-qemu share: how a guest begins, and what its end means.
# Sourced, never run.

set -euo pipefail

cpus=1 memory=256M limit=180 append='' input=/dev/null console=$(mktemp) initrd=$(mktemp)

fail() {
	printf '%s: error: %s\n' "${0##*/}" "$1" >&2
	exit "${2:-125}"
}

# common_option NAME VALUE: takes one that both have.
common_option() {
	case $1 in
	--cpus) cpus=$2 ;;
	--memory) memory=$2 ;;
	--timeout) limit=$2 ;;
	--append) append=$2 ;;
	*) return 1 ;;
	esac
}

# make_initrd ARGUMENTS...: those of guest-archive.
make_initrd() {
	"$(dirname -- "$0")/guest-archive" "$@" >"$initrd"
}

need_l1() {
	[[ -n ${L1:-} && -n ${GUEST_KERNEL:-} ]] || fail 'to be called inside L1, with the environment that scripts/guest-initrd prints'
}

cmdline() {
	printf 'console=ttyS0 quiet panic=-1 %s %s' "$GUEST_CLOCK" "$append"
}

# run_guest WHAT COMMAND...: runs the VMM, and exits with the status of the guest's script.
run_guest() {
	local what=$1 status=0
	shift
	timeout "$limit" "$@" <"$input" | tee "$console" || status=${PIPESTATUS[0]}
	rm -f "$initrd"
	((status != 124)) || fail "the time limit of $limit s was reached" 124
	((status == 0)) || fail "$what ended with status $status"
	status=$(tr -d '\r' <"$console" | sed -n 's/.*vblk-guest: status=\([0-9]*\).*/\1/p' | tail -n 1)
	rm -f "$console"
	[[ -n $status ]] || fail 'the guest ended without a result'
	exit "$status"
}
