#!/bin/sh
# The quick tests, in two processes: sh tools/test-fast.sh PYTEST. Left out: what starts servers or takes over ten
# seconds, programs that torch exports (tests/export), and the fuzzing. Fails if any fails.
set -u
marks="not server and not slow and not long and not soak and not zoo"
first="tests/access tests/partition tests/triton_backends"
others=$(mktemp)
trap 'rm -f "$others"' EXIT
# shellcheck disable=SC2086 # a folder a word
"$1" -q -m "$marks" $first >"$others" 2>&1 &
"$1" -q -m "$marks" --ignore tests/export --ignore tests/test_fuzz.py \
    $(for folder in $first; do echo "--ignore $folder"; done) tests
rest=$?
wait $!
head=$?
cat "$others"
[ $rest = 0 ] && [ $head = 0 ]
