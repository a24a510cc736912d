#!/usr/bin/env bash
# Puts everything MyGO needs into .venv: the locked, hashed packages, then this checkout.
# Does nothing if that is already so. Usage: scripts/install.sh [cpu|cuda]
set -euo pipefail
cd "$(dirname "$0")/.."

build=${1:-cpu}
lock=requirements/$build.lock
venv=.venv
log=$venv/install.log

fail() {
  printf 'install: %s\n' "$@" >&2
  exit 1
}

[ -f "$lock" ] || fail "there is no $lock; use cpu or cuda"
stamp=$venv/.installed-$build-$(cat "$lock" pyproject.toml | sha256sum | cut -c1-16)
[ -f "$stamp" ] && exit 0

[ "$(uname -sm)" = "Linux x86_64" ] ||
  fail "$lock holds Linux x86_64 builds and this is $(uname -sm)." \
    "Elsewhere install without the lock: pip install -e '.[$build,demo,dev]'"

# A name on the PATH may be a launcher that refuses to run, so ask each for its version.
python=
for candidate in ${PYTHON:-} python3.11 python3 python; do
  if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = 3.11 ]; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] ||
  fail "no Python 3.11 found (looked for \$PYTHON, python3.11, python3, python)." \
    "Install it (Debian, Ubuntu: apt-get install python3.11 python3.11-venv)" \
    "or say where it is: make PYTHON=/path/to/python3.11 install"

if ! [ -x $venv/bin/python ] || ! $venv/bin/python -m pip --version >/dev/null 2>&1; then
  printf '[1/3] virtual environment in %s, with %s\n' "$venv" "$("$python" --version)"
  "$python" -m venv --clear $venv ||
    fail "$python cannot make a virtual environment." \
      "Install its venv module (Debian, Ubuntu: apt-get install python3.11-venv)"
fi

# Prints how many packages pip has taken up, since it is silent for minutes.
watch_log() {
  local every=10
  [ -t 1 ] && every=1
  while sleep $every; do
    local seen
    seen=$(grep -c '^Collecting \|^Requirement already satisfied' "$log" || true)
    local what="      $seen of $total packages fetched"
    grep -q '^Installing collected' "$log" && what="      unpacking them into $venv"
    if [ -t 1 ]; then printf '\r\033[K%s' "$what"; else printf '%s\n' "$what"; fi
  done
}

total=$(grep -c '==' "$lock")
printf '[2/3] %s packages from %s (some minutes the first time; log: %s)\n' "$total" "$lock" "$log"
: >"$log"
watch_log &
watcher=$!
trap 'kill $watcher 2>/dev/null || true' EXIT
# --no-deps: the lock is complete, and what it leaves out (CUDA torchvision) must stay out.
# --no-compile: most modules are never imported; those that are get compiled below.
if ! $venv/bin/python -m pip install --no-deps --no-compile --require-hashes --progress-bar off \
  --disable-pip-version-check -r "$lock" >>"$log" 2>&1; then
  kill $watcher 2>/dev/null || true
  printf '\n'
  grep -v '^WARNING: Location' "$log" | tail -n 12 >&2
  if grep -q 'No matching distribution found for torch==' "$log"; then
    fail "pip does not find torch's CPU build: it is not on the common package index." \
      "Point pip at PyTorch's own CPU wheel index (its address is on PyTorch's install page)" \
      "through the environment variable PIP_EXTRA_INDEX_URL, and run this again."
  fi
  fail "pip failed; the whole log is in $log. Run this again to go on from what was fetched."
fi
kill $watcher 2>/dev/null || true
[ -t 1 ] && printf '\r\033[K'

printf '[3/3] mygo itself, editable\n'
$venv/bin/python -m pip install --no-deps --no-build-isolation --quiet --disable-pip-version-check -e . \
  >>"$log" 2>&1 || { tail -n 12 "$log" >&2; fail "this checkout could not be installed; log: $log"; }

# A cluster is a dozen processes that start at the same time and import the same modules: each would compile all
# of them for itself, at every start where PYTHONDONTWRITEBYTECODE is set (as in many containers).
printf '      compiling what its processes import\n'
PYTHONDONTWRITEBYTECODE='' $venv/bin/python -c 'import mygo.serve.app, mygo.cli.app, sentence_transformers
import vllm.v1.engine.core, vllm.v1.worker.gpu_model_runner, vllm.entrypoints.openai.api_server' >>"$log" 2>&1 ||
  printf '      (not all could be imported: see %s)\n' "$log"

rm -f $venv/.installed-*
touch "$stamp"
printf 'installed in %s s; the command is %s/bin/mygo\n' "$SECONDS" "$venv"
