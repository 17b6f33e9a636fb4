#!/usr/bin/env bash
# Compare the kernels' golden bits on 64-bit ARM, emulated by qemu-user, with tests/kernels/golden*.json.
#
# Run from the checkout's root, as root on a Debian system: it installs qemu-user-static, and unpacks an arm64
# Python and the aarch64 wheels that constraints.txt pins under ARM_ROOT (default: a folder in /tmp).
# Takes about five minutes of one core. Prints "equal", or what differs with exit status 1.
set -euo pipefail
root=${ARM_ROOT:-${TMPDIR:-/tmp}/niels-gpt-arm}
mkdir -p "$root"/{lists/partial,debs,fs,site,wheels}

command -v qemu-aarch64-static >/dev/null || { apt-get update -qq && apt-get install -y -qq qemu-user-static >/dev/null; }

if [ ! -x "$root/fs/usr/bin/python3.11" ]; then
  apt=(apt-get -oAPT::Architecture=arm64 -oAPT::Architectures=arm64 -oDir::State::Lists="$root/lists")
  "${apt[@]}" update -qq
  (cd "$root/debs" && "${apt[@]}" download -qq libc6 libgcc-s1 libstdc++6 zlib1g libpython3.11-minimal libpython3.11-stdlib \
    python3.11-minimal python3.11 libexpat1 libffi8 libssl3 liblzma5 libbz2-1.0 libsqlite3-0 libuuid1 libcrypt1 libreadline8 \
    libtinfo6 libncursesw6 libdb5.3 libgomp1)
  for deb in "$root"/debs/*.deb; do dpkg -x "$deb" "$root/fs"; done
fi
if [ -z "$(ls -A "$root/site")" ]; then
  pins=$(grep -E '^(numpy|numba|llvmlite)==' constraints.txt)
  # shellcheck disable=SC2086  # one word per pin
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
    --platform manylinux2014_aarch64 -d "$root/wheels" $pins
  for wheel in "$root"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$root/site"; done
  python3 -m pip install -q --no-deps --target "$root/site" "$(grep -E '^platformdirs==' constraints.txt)"
fi

PYTHONPATH=$root/site:$PWD PYTHONDONTWRITEBYTECODE=1 NUMBA_CACHE_DIR=$root/numba qemu-aarch64-static -L "$root/fs" \
  "$root/fs/usr/bin/python3.11" -m tests.kernels.golden > "$root/golden.json"
python3 - "$root/golden.json" tests/kernels/golden.json tests/kernels/golden_forms.json <<'PYTHON'
import json
import sys

here, *golden = (json.load(open(path)) for path in sys.argv[1:])
pairs = zip((here["golden"], here["golden_forms"]), golden, strict=True)
different = [key for found, wanted in pairs for key in wanted if found.get(key) != wanted[key]]
print("different: " + ", ".join(different) if different else "equal")
sys.exit(bool(different))
PYTHON
