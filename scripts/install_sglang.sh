#!/usr/bin/env bash
# SGLang for the benchmark's row `sglang`, in .venv-sglang, which sees all of .venv's packages.
# Nothing of it goes into .venv. Run scripts/install.sh (or make install) first.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || {
  echo "install_sglang: there is no .venv; run make install first" >&2
  exit 1
}
.venv/bin/python -m venv --clear .venv-sglang
site=$(.venv-sglang/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/mygo-base.pth"
cp benchmarks/systems/sglang_stubs.py "$site/sglang_stubs.py"
echo 'import sglang_stubs' >"$site/zz-sglang-stubs.pth"
# --no-deps: its own requirements are CUDA kernels; these are what its server imports on a CPU
.venv-sglang/bin/python -m pip install --no-deps --quiet --disable-pip-version-check \
  sglang==0.5.23 orjson ipython traitlets soundfile
.venv-sglang/bin/python -m sglang.launch_server --help >/dev/null 2>&1 || {
  echo "install_sglang: SGLang cannot be imported; see .venv-sglang/bin/python -m sglang.launch_server --help" >&2
  exit 1
}
echo "installed; python -m benchmarks --systems vllm,vllm-prefix,sglang,mygo"
