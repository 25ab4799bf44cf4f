#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What scripts/kernel-matrix runs in each guest.
set -u
uname -r
beeline --version || exit 1
