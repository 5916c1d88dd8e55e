#!/bin/sh
# All tests but the long ones, in two processes: sh tools/test.sh PYTEST
# Those that start servers mostly wait; the others run beside them and are shown at the end. Fails if any fails.
set -u
pytest=$1
others=$(mktemp)
trap 'rm -f "$others"' EXIT
echo "tests without servers run beside those with servers; their report comes last"
nice "$pytest" -m "not server and not long and not soak and not zoo" >"$others" 2>&1 &
$pytest -m "server and not long and not soak and not zoo"
servers=$?
wait $!
without=$?
cat "$others"
[ $servers = 0 ] && [ $without = 0 ]
