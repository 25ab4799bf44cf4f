# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# What every script here shares: where the repository is, how to talk, how to
# get the tools a script needs. Sourced, never run:
#
#   . "$(dirname "$0")/lib.sh"
#   help_wanted "$@"          # prints the comment at the top of the script
#   need build jq             # installs through apt what is missing

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ME=$(basename "$0")
export REPO
export LC_ALL=C.UTF-8

# rustup's folder is at the end, for where sudo or CI dropped it from PATH.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"

# --- talking: everything said here goes to stderr, stdout is for results -----

if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
	BOLD=$'\e[1m' RED=$'\e[31m' GREEN=$'\e[32m' YELLOW=$'\e[33m' PLAIN=$'\e[0m'
else
	BOLD='' RED='' GREEN='' YELLOW='' PLAIN=''
fi

say() { printf '%s%s:%s %s\n' "$BOLD" "$ME" "$PLAIN" "$*" >&2; }
good() { printf '%s%s:%s %s%s%s\n' "$BOLD" "$ME" "$PLAIN" "$GREEN" "$*" "$PLAIN" >&2; }
warn() { printf '%s%s:%s %s%s%s\n' "$BOLD" "$ME" "$PLAIN" "$YELLOW" "$*" "$PLAIN" >&2; }
bad() { printf '%s%s:%s %s%s%s\n' "$BOLD" "$ME" "$PLAIN" "$RED" "$*" "$PLAIN" >&2; }
die() {
	bad "$@"
	exit 1
}
usage() {
	bad "$@"
	say "see scripts/$ME --help"
	exit 2
}

# help_wanted ARGS…: on -h or --help prints the script's leading comment, up to
# the first line that is none, and ends. What follows `--` belongs to others.
help_wanted() {
	local arg
	for arg in "$@"; do
		case $arg in
		--) return 0 ;;
		-h | --help)
			awk 'NR == 1 || /SPDX-License-Identifier/ { next }
			     /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$0" | sed '/./,$!d'
			exit 0
			;;
		esac
	done
}

# quietly WHAT CMD…: runs CMD without a word, and shows all it said if it fails.
quietly() {
	local what=$1 log
	shift
	log=$(mktemp)
	if "$@" >"$log" 2>&1 </dev/null; then
		rm -f "$log"
		return 0
	fi
	bad "$what failed: $*"
	cat "$log" >&2
	rm -f "$log"
	return 1
}

# --- tools ------------------------------------------------------------------

# packages GROUP: lines `package probe…`; a probe is a command or a file, and
# the package is missing when one of them is.
packages() {
	case $1 in
	build)
		# libelf is built from source into the binary, for which the autotools are:
		# newer Debian's libelf.a refers to a library that is not packaged. The build
		# script links the packaged ones.
		cat <<-'LIST'
			clang clang
			gcc gcc
			libc6-dev /usr/include/stdio.h
			make make
			pkg-config pkg-config
			libelf-dev /usr/include/libelf.h
			zlib1g-dev /usr/include/zlib.h
			autoconf autoconf
			automake automake
			autopoint autopoint
			flex flex
			bison bison
			gawk gawk
			gettext gettext
			libtool libtoolize
		LIST
		;;
	qemu)
		cat <<-'LIST'
			qemu-system-x86 qemu-system-x86_64
			busybox-static busybox
			cpio cpio
			kmod depmod
			xz-utils xz
		LIST
		;;
	net)
		cat <<-'LIST'
			iproute2 ip ss tc
			nftables nft
			bpftool bpftool
			conntrack conntrack
			procps sysctl
		LIST
		;;
	image)
		# buildah of Debian 13 looks for netavark, though a scratch image has no network.
		cat <<-'LIST'
			buildah buildah
			netavark /usr/lib/podman/netavark
		LIST
		;;
	container)
		cat <<-'LIST'
			crun crun
			golang-github-containers-common /usr/share/containers/seccomp.json
		LIST
		;;
	lint)
		cat <<-'LIST'
			clang clang
			clang-format clang-format
			shellcheck shellcheck
		LIST
		;;
	jq) echo "jq jq" ;;
	git) echo "git git" ;;
	curl) echo "curl curl" ;;
	*) die "lib.sh knows no group of packages named $1" ;;
	esac
}

have() {
	case $1 in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

# need GROUP…: sees that all packages of the groups are there, and says what it
# installs. `rust` is the toolchain, which is asked for and never installed.
need() {
	local group package probes probe
	local -a missing=()
	for group in "$@"; do
		if [ "$group" = rust ]; then
			need_rust
			continue
		fi
		while read -r package probes; do
			for probe in $probes; do
				have "$probe" && continue
				missing+=("$package")
				break
			done
		done < <(packages "$group")
	done
	[ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
}

apt_install() {
	local -a sudo=()
	have apt-get || die "missing: $*; this is no Debian, so install them by hand"
	if [ "$(id -u)" != 0 ]; then
		sudo -n true 2>/dev/null || die "missing: $*; as root: apt-get install $*"
		sudo=(sudo -n)
	fi
	local -a apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y
		-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
	say "installing $*"
	# The lists of a fresh image are empty, those of an old one name versions
	# that are gone: update and try once more before giving up.
	if ! "${apt[@]}" install --no-install-recommends "$@" >/dev/null 2>&1 </dev/null; then
		quietly "apt-get update" "${apt[@]}" update || say "going on with the lists there are"
		quietly "apt-get install" "${apt[@]}" install --no-install-recommends "$@" ||
			die "could not install $*"
	fi
}

need_rust() {
	local want got
	want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$REPO/Cargo.toml")
	have cargo || die "no Rust toolchain: cargo is not in PATH. Install Rust $want or newer with rustup" \
		"(Debian 13 and later: apt-get install rustup && rustup default stable), then run this again."
	got=$(rustc --version) || die "rustc does not run: is there a toolchain? rustup default stable"
	got=$(awk '{ sub(/-.*/, "", $2); print $2 }' <<<"$got")
	[ "$(printf '%s\n' "$want" "$got" | sort -V | head -n 1)" = "$want" ] ||
		die "Rust $got is too old, $want or newer is needed: rustup update stable"
}

# --- cargo ------------------------------------------------------------------

# The release folder. All builds name the host's own target (.cargo/config.toml).
release_dir() {
	local tuple
	tuple=$(rustc --print host-tuple)
	echo "${CARGO_TARGET_DIR:-$REPO/target}/$tuple/release"
}

# build_release [ARGS…]: the static release binary, with cargo's own words.
build_release() {
	need rust build
	(cd "$REPO" && cargo build --release "$@" </dev/null) || die "cargo build failed"
}

# targets KIND: names of the crate's targets of that kind (lib, bin, test, bench).
targets() {
	need jq
	(cd "$REPO" && cargo metadata --no-deps --format-version 1 </dev/null) |
		jq -r --arg kind "$1" '.packages[].targets[] | select(.kind | index($kind)) | .name'
}
