#!/usr/bin/env bash
# Installs a lock file of this folder into a virtual environment, every file by its hash:
#   requirements/install.sh VENV core|ci|ci-eval|tools [WHEEL]
# and, but for the tools, torch and seal itself: WHEEL, or this checkout, editable.
set -euo pipefail
venv=$(realpath "$1")
wheel=${3:+$(realpath "$3")}
cd "$(dirname "$0")/.."
lock=requirements/$2.txt
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
# Wheels only: nothing runs that a package brings, before all of them are known to be the right ones.
# Only what lm-eval needs has three packages that exist as source alone.
locked() {
  pip install --quiet --no-deps --require-hashes --no-build-isolation --only-binary :all: "$@"
}
sources=rouge-score,sqlitedict,word2number

[ -n "$wheel" ] || locked --requirement requirements/build.txt
if [ "$2" = tools ]; then
  locked --requirement "$lock"
  pip check
  exit
fi

# The build for CPUs where an index, or a folder of wheels that pip is told of, has it; otherwise
# PyPI's. Not in one file: pip would rather take PyPI's, with gigabytes of CUDA on Linux, than one in
# a folder, whose hash it does not know before it has read it.
cpu=$(grep -oE '^torch==[^ ]+' requirements/torch-cpu.txt)
torch=requirements/torch-pypi.txt
if pip install --quiet --dry-run --no-deps --ignore-installed --only-binary :all: "$cpu" \
  >/dev/null 2>&1; then
  torch=requirements/torch-cpu.txt
fi
echo "Installing $torch and $lock by their hashes"
if [ "$2" = ci-eval ]; then
  locked --no-binary "$sources" --requirement "$torch" --requirement "$lock"
else
  locked --requirement "$torch" --requirement "$lock"
fi
if [ -n "$wheel" ]; then
  pip install --quiet --no-deps "$wheel"
else
  pip install --quiet --no-deps --no-build-isolation --editable .
fi
pip check
