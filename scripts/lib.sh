# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# What all scripts share: places, messages, steps with their duration, and the
# one definition of which tools build what. Sourced, never run.

set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
BUILD=$ROOT/build
LOGS=$BUILD/log
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/vhost-blk-rs

# The kernel's Rust metadata is bound to one compiler, and only the
# distribution ships the library source for its own. So one toolchain builds
# everything, whatever rustup may have put earlier on PATH.
RUSTC=/usr/bin/rustc
HOSTRUSTC=/usr/bin/rustc
CARGO=/usr/bin/cargo
LLVM=-19
BINDGEN_VERSION=0.72.1
BINDGEN=$CACHE/tools/bindgen-$BINDGEN_VERSION/bin/bindgen
GUEST_FIO=$CACHE/tools/fio-static/fio
# Debian's own kernel for guests: vmlinuz, and modules for what the launcher has.
STOCK_KERNEL=$CACHE/stock-kernel

# What a nested guest must be told: its kvm-clock and the TSC of an emulated host stall each other.
GUEST_CLOCK='no-kvmclock clocksource=jiffies'

# The kernel series this was tested with comes first.
KERNEL_SERIES=(7.2 7.3)

# All that differs between our kernels. The options are files of scripts/kernel, the
# last of which wins; boot is how many seconds L1 may take to get ready, slower how many
# times longer a test may take; lines and MiB are those of a build.
declare -A KERNELS=(
	[release]='options=release memory=2G boot=40 slower=1 lines=2070 mib=1500'
	[debug]='options=release,debug memory=3G boot=150 slower=4 lines=2200 mib=3500'
)

die() {
	printf '%s: error: %s\n' "${0##*/}" "$*" >&2
	exit "${DIE_STATUS:-1}"
}

note() {
	printf '%s\n' "$*" >&2
}

# mended_qemu: the directory for a copy of the installed QEMU in which a fault is
# mended (scripts/mend-qemu).
mended_qemu() {
	printf '%s/tools/qemu-%s' "$CACHE" "$(dpkg-query -W -f '${Version}' qemu-system-x86 2>/dev/null)"
}

# usage_from FILE: prints the comment block that follows the SPDX line.
usage_from() {
	sed -n '3,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$1"
}

# duration SECONDS: "7 s" or "8 min 05 s".
duration() {
	if (($1 < 60)); then
		printf '%d s' "$1"
	else
		printf '%d min %02d s' $(($1 / 60)) $(($1 % 60))
	fi
}

# step TITLE TOTAL COMMAND...: runs COMMAND with all output in a log file, shows
# that it is alive, and says how long it took. With TOTAL above zero, progress
# is the count of log lines that match STEP_COUNT, out of TOTAL; otherwise it is
# the time. On a terminal one line is redrawn, elsewhere a line comes every
# 15 s. On failure the log's heart and its place are shown.
step() {
	local title=$1 total=$2 log pid start=$SECONDS shown=$SECONDS status=0
	shift 2
	mkdir -p "$LOGS"
	log=$(step_log "$title")
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	# A background job of a script ignores SIGINT, so Ctrl-C is passed on.
	trap 'kill -TERM "$pid" 2>/dev/null || true; wait "$pid" || true; exit 130' INT TERM
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
		if [[ -t 2 ]]; then
			printf '\r\033[K  ... %s' "$(step_progress "$title" "$total" "$log" "$start")" >&2
		elif ((SECONDS - shown >= 15)); then
			shown=$SECONDS
			printf '  ... %s\n' "$(step_progress "$title" "$total" "$log" "$start")" >&2
		fi
	done
	wait "$pid" || status=$?
	trap - INT TERM
	[[ -t 2 ]] && printf '\r\033[K' >&2
	if ((status)); then
		excerpt "$log" | sed 's/^/  | /' >&2
		note "FAIL  $title ($(duration $((SECONDS - start)))); full log: $log"
		explain_log "$log"
		return "$status"
	fi
	note "ok    $title ($(duration $((SECONDS - start))))"
}

# build_step TITLE TOTAL FILE COMMAND...: a step that makes FILE.
build_step() {
	local title=$1 total=$2 file=$3 log
	shift 3
	log=$(step_log "$title")
	step "$title" "$total" "$@"
	# What the compiler warned of must not hide in a log.
	grep -A 12 -E '^(warning|WARNING)' "$log" >&2 || true
	[[ -f $file ]] || die "the build left no $file; log: $log"
}

# What counts as one unit of progress in a log: Kbuild's lines.
STEP_COUNT='^  [A-Z]'

step_log() {
	printf '%s/%s.log' "$LOGS" "${1//[^A-Za-z0-9.-]/-}"
}

step_progress() {
	local title=$1 total=$2 log=$3 start=$4 count
	if ((total > 0)); then
		count=$(grep -c "$STEP_COUNT" "$log" || true)
		# The total is what a past build had: an estimate, never passed.
		((count < total)) || count=$((total - 1))
		printf '%s: %d of about %d (%d%%), %s' "$title" "$count" "$total" \
			$((count * 100 / total)) "$(duration $((SECONDS - start)))"
	else
		printf '%s: %s' "$title" "$(duration $((SECONDS - start)))"
	fi
}

# excerpt FILE: the first compiler error where there is one, else the end.
excerpt() {
	if grep -q '^error' "$1"; then
		grep -m 1 -A 40 '^error' "$1"
	else
		tail -n 40 "$1"
	fi
}

# explain_log FILE: names the causes a newcomer meets, with the way out.
explain_log() {
	if grep -qiE 'no space left on device' "$1"; then
		note "error: the disk is full: free some space under $CACHE or $BUILD (df: $(free_space "$CACHE") free)"
	elif grep -qiE 'temporary failure resolving|could not resolve|connection (refused|timed out)|network is unreachable|failed to fetch|spurious network error' "$1"; then
		note "error: a package registry could not be reached: check the network and proxy settings, then run the same command again"
	elif grep -qiE 'SSL certificate problem|certificate verification failed' "$1"; then
		note "error: a package registry's certificate is not trusted: install your proxy's CA certificate (update-ca-certificates), then run the same command again"
	elif grep -qiE 'could not get lock' "$1"; then
		note "error: another package manager is running: wait for it, then run the same command again"
	elif grep -qE '[Oo]ut of memory|signal: 9|Killed' "$1"; then
		note "error: the machine ran out of memory: 4 GiB are needed for the kernel build"
	fi
}

# existing_parent DIR: the nearest directory above that exists, for df.
existing_parent() {
	local dir=$1
	while [[ ! -d $dir ]]; do dir=$(dirname "$dir"); done
	printf '%s' "$dir"
}

free_mib() {
	df -Pm "$(existing_parent "$1")" | awk 'NR == 2 { print $4 }'
}

free_space() {
	printf '%d MiB' "$(free_mib "$1")"
}

# need_space DIR MIB WHAT
need_space() {
	local have
	have=$(free_mib "$1")
	((have >= $2)) || die "no space for $3: $2 MiB needed in $1, $have MiB free; free some, or set XDG_CACHE_HOME to a larger disk"
}

# need_tool NAME: for what a caller may lack.
need_tool() {
	command -v "$1" >/dev/null || die "$1 is missing: run 'make setup'"
}

# need_kernel KIND: before anything else is made of a name that a caller gave.
need_kernel() {
	[[ -n $1 && -n ${KERNELS[$1]:-} ]] || die "no kernel is called '$1': there are release and debug"
}

# kernel_fact KIND NAME: a value of KERNELS.
kernel_fact() {
	local fact
	for fact in ${KERNELS[$1]}; do
		[[ $fact != "$2="* ]] || printf '%s' "${fact#*=}"
	done
}

# kernel_config KIND: the requested options, last one wins.
kernel_config() {
	local name names
	IFS=, read -ra names < <(kernel_fact "$1" options; echo)
	for name in "${names[@]}"; do
		grep '^CONFIG_' "$ROOT/scripts/kernel/$name.config"
	done
}

# kernel_source: the unpacked source tree, preferring the tested series.
kernel_source() {
	local series dir
	for series in "${KERNEL_SERIES[@]}"; do
		for dir in "$CACHE/src/linux-$series".*/; do
			if [[ -f $dir/.vhost-blk-rs-version ]]; then
				printf '%s' "${dir%/}"
				return
			fi
		done
	done
	return 1
}

# toolchain_id: changes whenever a compiler does. Package versions would do
# too, but the tools themselves are the truth.
toolchain_id() {
	"clang$LLVM" --version | head -n 1
	"$RUSTC" -vV
	printf 'bindgen %s\n' "$BINDGEN_VERSION"
}

# kernel_dir KIND: where the cached build of that kernel is, or will be. The
# name depends on all that the result depends on.
kernel_dir() {
	local source key
	source=$(kernel_source) || return 1
	key=$({
		cat "$source/.vhost-blk-rs-version"
		kernel_config "$1" | LC_ALL=C sort
		toolchain_id
	} | sha256sum | cut -c1-12)
	printf '%s/kernel/%s-%s' "$CACHE" "$1" "$key"
}

# kernel_make DIR ARGS...: the kernel's own make with our tools.
kernel_make() {
	local dir=$1
	shift
	# MAKEFLAGS of an outer make would carry its variables into Kbuild.
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u KDIR -u KERNEL -u RUSTFLAGS \
		PATH="/usr/bin:/usr/sbin:/bin:/sbin:$PATH" \
		make -C "$dir" LLVM="$LLVM" RUSTC="$RUSTC" HOSTRUSTC="$HOSTRUSTC" \
		RUSTDOC=/usr/bin/rustdoc RUSTFMT=/usr/bin/rustfmt BINDGEN="$BINDGEN" "$@"
}

# with_lock NAME COMMAND...: one process at a time for each NAME, over all
# checkouts that share the cache.
with_lock() {
	local name=$1
	shift
	mkdir -p "$CACHE"
	(
		flock -n 9 || {
			note "waiting for another vhost-blk-rs build to finish ($name)"
			flock 9
		}
		"$@"
	) 9>"$CACHE/.lock-$name"
}

# prepared_kdir KIND: the caller's KDIR when given (checked), ours otherwise.
prepared_kdir() {
	if [[ -n ${KDIR:-} ]]; then
		check_kdir "$KDIR"
		(cd "$KDIR" && pwd -P)
		return
	fi
	local dir
	dir=$(kernel_dir "$1") || die "no kernel source yet: run 'make setup'"
	[[ -f $dir/.ready ]] || die "the $1 kernel is not built yet: run 'make kernel KERNEL=$1'"
	printf '%s' "$dir"
}

# check_kdir DIR: one line that says why a tree can't build a Rust module.
check_kdir() {
	local dir=$1 config
	[[ -d $dir ]] || die "KDIR=$dir: no such directory"
	config=$dir/.config
	[[ -f $config ]] || config=$dir/include/config/auto.conf
	[[ -f $config && -f $dir/Makefile ]] || die "KDIR=$dir: not a configured kernel build directory (no .config or Makefile)"
	grep -q '^CONFIG_RUST=y' "$config" || die "KDIR=$dir: this kernel has no Rust support: enable CONFIG_RUST and build it, or leave KDIR out to use our own"
	[[ -n $(compgen -G "$dir/rust/libkernel.rmeta") ]] || die "KDIR=$dir: CONFIG_RUST is set, but the Rust metadata (rust/*.rmeta) is missing: run 'make LLVM=$LLVM prepare rust/' there, or leave KDIR out"
	[[ -f $dir/Module.symvers ]] || note "warning: KDIR=$dir has no Module.symvers: the module builds, but may not load"
}

# module_dir KIND: where the module for that kernel is built. A caller's kernel
# has a place of its own, so that its module never replaces ours.
module_dir() {
	if [[ -n ${KDIR:-} ]]; then
		printf '%s/module-custom' "$BUILD"
	else
		printf '%s/module-%s' "$BUILD" "$1"
	fi
}

module_path() {
	printf '%s/vhost_blk_rs.ko' "$(module_dir "$1")"
}

kunit_module_path() {
	printf '%s-kunit/vhost_blk_rs.ko' "$(module_dir debug)"
}

# test_disk_path KIND: the disk of the tests, built for the same kernel.
test_disk_path() {
	printf '%s-test-disk/vblk_test_disk.ko' "$(module_dir "$1")"
}

# kernel_image KDIR
kernel_image() {
	printf '%s/arch/x86/boot/bzImage' "$1"
}

vblk_path() {
	printf '%s/cargo/release/vblk' "$BUILD"
}

# cargo_env COMMAND...: runs COMMAND with the one toolchain, and its output in
# this checkout. ~/.cargo/bin may hold rustup's proxies of the same names.
cargo_env() {
	env -u RUSTUP_TOOLCHAIN -u RUSTFLAGS -u MAKEFLAGS -u MFLAGS \
		PATH="/usr/bin:/usr/sbin:/bin:/sbin:$PATH" \
		CARGO="$CARGO" RUSTC="$RUSTC" RUSTDOC=/usr/bin/rustdoc RUSTFMT=/usr/bin/rustfmt \
		CARGO_TARGET_DIR="$BUILD/cargo" "$@"
}
