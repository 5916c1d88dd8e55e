#!/bin/sh
# The quick tests, in two processes: sh tools/test-fast.sh PYTEST. Left out: what starts servers or takes over ten
# seconds, what exports, builds or runs the command line, and the fuzzing. Fails if any fails.
set -u
marks="not server and not slow and not long and not soak and not zoo"
first="tests/analysis tests/partition tests/profiling tests/triton_backends"
left_out="tests/elasticrec tests/export tests/integration tests/repository tests/soak tests/test_fuzz.py tests/zoo"
report=$(mktemp)
trap 'rm -f "$report"' EXIT
# shellcheck disable=SC2086 # a folder a word
"$1" -q -m "$marks" $first >"$report" 2>&1 &
# shellcheck disable=SC2046,SC2086
"$1" -q -m "$marks" $(printf -- '--ignore %s ' $first $left_out) tests
rest=$?
wait $!
ended=$?
cat "$report"
[ $rest = 0 ] && [ $ended = 0 ]
