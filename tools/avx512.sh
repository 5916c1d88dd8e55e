#!/bin/sh
# Run the kernels on an emulated processor with AVX-512, for machines that have none: sh tools/avx512.sh [KERNELS.SO]
# Bochs runs a program without an operating system (tools/avx512), which loads the library as it was built, and compares
# what its functions give with and without AVX-512, and with a count of its own. All is made below build/avx512.
set -eu
library=$(realpath "${1:-triton_backends/kernels/kernels.so}")
python=$PWD/.venv/bin/python
root=$PWD
place=$PWD/build/avx512
# Bochs 2.7 takes a gather whose index is in zmm16 to zmm31 for no instruction, and tables of 9 to 16 shards have one. With a
# Bochs that knows better, or a library that has the index elsewhere: MOST_SHARDS=16
flags="-DMOST_SHARDS=${MOST_SHARDS:-8} -target x86_64-linux-musl -mcpu=x86_64_v2 -O2 -g0
    -ffreestanding -fno-builtin -fno-stack-protector -fno-pic"
rm -rf "$place"
mkdir -p "$place"
cd "$place"
zig() { "$python" -m ziglang "$@"; }
for source in machine compare compare_sums compare_routes; do
    # shellcheck disable=SC2086 # one word a flag
    zig cc $flags -Wall -Wextra -Werror -I"$root/triton_backends" -c "$root/tools/avx512/$source.c" -o $source.o
done
for source in start rom; do zig cc -target x86_64-freestanding -c "$root/tools/avx512/$source.S" -o $source.o; done
cp "$library" kernels.so
zig ld.lld -m elf_x86_64 -r --format=binary kernels.so -o kernels.o
zig ld.lld -T "$root/tools/avx512/link.ld" --oformat binary start.o machine.o kernels.o compare*.o -o program
zig ld.lld --image-base=0 -Ttext 0 --oformat binary rom.o -o rom
"$python" -c 'rom = open("rom", "rb").read().ljust(511, b"\0"); open("rom.bin", "wb").write(rom + bytes([-sum(rom) % 256]))'
split --bytes=131072 --numeric-suffixes --suffix-length=1 program program.

echo continue >commands # Debian's Bochs has a debugger, which waits for a word
touch output
export BXSHARE=/usr/share/bochs TERM=vt100
bochs-bin -q -f "$root/tools/avx512/bochsrc" -rc commands </dev/null >screen 2>&1 &
emulator=$!
trap 'kill -KILL $emulator 2>/dev/null || :' EXIT # it hears of no other signal, and of Ctrl-C neither
trap 'exit 130' INT TERM
timeout --foreground 1800 tail --follow --lines=+1 --pid=$emulator output || :
grep -q '^PASSED$' output || { echo "not passed; what the emulator says: $place/bochs.log" >&2; exit 1; }
