#!/usr/bin/env bash
# bench/bounds/bounds.sh - all bounds; fails when one of them is missed, after the last.
# SPDX-License-Identifier: MIT
set -uo pipefail
program=$1
shift
missed=0
"$program" || missed=1
"$(dirname "${BASH_SOURCE[0]}")/compile_cost.sh" "$@" || missed=1
exit $missed
