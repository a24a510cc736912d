#!/usr/bin/env bash
# LMCache for the benchmark's row `lmcache`, in .venv-lmcache, which sees all of .venv's packages.
# Nothing of it goes into .venv. Run scripts/install.sh (or make install) first.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || {
  echo "install_lmcache: there is no .venv; run make install first" >&2
  exit 1
}
.venv/bin/python -m venv --clear .venv-lmcache
site=$(.venv-lmcache/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/mygo-base.pth"
# --no-deps: its own requirements name a CUDA torch; these are what its server imports besides
.venv-lmcache/bin/python -m pip install --no-deps --quiet --disable-pip-version-check \
  lmcache==0.5.6 aiofile aiofiles blake3 awscrt nvtx redis sortedcontainers caio cachetools \
  opentelemetry-exporter-prometheus
.venv-lmcache/bin/python -c 'import lmcache, vllm'
echo "installed; python -m benchmarks --systems vllm,vllm-prefix,lmcache,mygo"
