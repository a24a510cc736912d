#!/usr/bin/env bash
# Resolves pyproject.toml into requirements/{cpu,cuda}.lock, every file with its hash. Needs uv.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=${UV:-uv}
command -v "$uv" >/dev/null || {
  echo "lock: uv is not on the PATH; install it (pipx install uv) or say where it is: make UV=... lock" >&2
  exit 1
}
# uv does not read pip's settings: torch's CPU build may lie where only pip looks.
if [ -z "${UV_FIND_LINKS:-}" ] && found=$(.venv/bin/python -m pip config get global.find-links 2>/dev/null); then
  export UV_FIND_LINKS=$found
fi

compile() {
  local build=$1
  shift
  echo "requirements/$build.lock"
  "$uv" "$@" --extra "$build" --extra demo --extra dev pyproject.toml \
    --quiet --no-header --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --output-file "requirements/$build.lock"
}

compile cpu pip compile
# pyproject.toml's overrides keep torchvision and its like away from a CPU torch. Beside a CUDA torch
# they match and vLLM imports them, so only the demo package's tools stay out.
overrides=$(mktemp)
trap 'rm -f "$overrides"' EXIT
printf "llm; sys_platform == 'never'\nllama-cpp-python; sys_platform == 'never'\n" >"$overrides"
compile cuda --no-config pip compile --overrides "$overrides"
sed -i '/^ *# *--override/d' requirements/cuda.lock

if grep -nE '://|/(tmp|home|root|opt|var)/' requirements/*.lock; then
  echo "lock: a lock file names a host or a local path (above); remove it" >&2
  exit 1
fi
