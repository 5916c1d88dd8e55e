#!/bin/sh
# Run tests on the C code built with sanitizers: sh tools/sanitize.sh address,undefined|thread TESTS...
# The code is built in a copy below build/sanitize, and what is installed stays as it is. The first fault ends the run.
set -eu
sanitizers=$1
shift
python=$PWD/.venv/bin/python
tree=$PWD/build/sanitize/${sanitizers%%,*}
rm -rf "$tree"
mkdir -p "$tree"
cp -r --parents README.md pyproject.toml setup.py repo_builder triton_backends tests "$tree"
cd "$tree"
find triton_backends -name '*.so' -delete

export SANITIZED_CC="gcc -march=x86-64-v2 -D_GNU_SOURCE -include $tree/tests/triton_backends/sanitized.h \
    -O1 -ffp-contract=off -g -fno-omit-frame-pointer -fsanitize=$sanitizers -fno-sanitize-recover=all"
"$python" setup.py -q build_ext --inplace

check() (
    # the program is Python, which knows nothing of sanitizers: their library must be there before it
    case $sanitizers in thread) library=libtsan.so ;; *) library=libasan.so ;; esac
    export LD_PRELOAD="$(gcc -print-file-name=$library) libstdc++.so.6"
    export PYTHONMALLOC=malloc # each of Python's buffers by itself, so that a read behind its end is seen
    # a caller in Python is none of the frames that are kept, so that leaks.txt does not cover our own leaks
    export ASAN_OPTIONS=malloc_context_size=4
    export UBSAN_OPTIONS=print_stacktrace=1
    export LSAN_OPTIONS="suppressions=$tree/tests/triton_backends/leaks.txt:print_suppressions=0"
    # races in code that is not built here (Python, gRPC) cannot be judged
    export TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1:die_after_fork=0
    # a report would be lost with what is captured
    exec "$python" -m pytest -p no:cacheprovider --capture=no "$@"
)

# At the process' end LeakSanitizer halts all threads and looks for leaks. Now and then it dies of that itself, seen with
# "Tracer caught signal 11" after all tests had passed. Then nothing was judged, and all is run again; what it finds counts.
for attempt in 1 2 3; do
    { check "$@" 2>&1 && echo 0 >"$tree/status" || echo $? >"$tree/status"; } | tee "$tree/output"
    read -r status <"$tree/status"
    grep -q "LeakSanitizer has encountered a fatal error" "$tree/output" || break
    echo "LeakSanitizer failed itself (attempt $attempt)"
done
exit "$status"
