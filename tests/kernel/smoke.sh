#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What scripts/kernel-matrix runs in each guest: the steps below, then the tests
# that smoke.tests names; with --full all tests of the binaries that are there.
# To have one more thing tried on every kernel, add a step or a line of smoke.tests.
set -u
here=$(dirname "$0")
failed=0

# step CMD…: one thing that has to work.
step() {
	local code=0
	echo "--- $*"
	"$@" || code=$?
	[ $code = 0 ] || {
		failed=1
		echo "--- failed, exit code $code: $*"
	}
}

# tests TARGET FILTER: the tests of /tests/TARGET whose path contains FILTER; a
# filter that finds none fails, or a renamed test would be lost in silence.
tests() {
	echo "--- tests of $1: $2"
	"/tests/$1" --list "$2" 2>/dev/null | grep -q ': test$' || {
		failed=1
		echo "--- failed: $1 has no test named $2"
		return
	}
	step "/tests/$1" "$2"
}

step beeline --version
step beeline doctor
step beeline demo --no-figures
if [ "${1:-}" = --full ]; then
	for binary in /tests/*; do
		case ${binary##*/} in
		# Pure functions: the same on every kernel.
		lib | beeline | vectors) ;;
		it)
			skips=()
			while read -r filter reason; do
				echo "--- skipped: $filter: $reason"
				skips+=(--skip "$filter")
			done < <(sed 's/^#.*//; /^ *$/d' "$here/smoke-full.skip")
			step "$binary" "${skips[@]}"
			;;
		*) [ ! -x "$binary" ] || step "$binary" ;;
		esac
	done
else
	while read -r target filter; do
		tests "$target" "$filter"
	done < <(sed 's/#.*//; /^ *$/d' "$here/smoke.tests")
fi
exit $failed
