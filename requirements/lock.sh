#!/usr/bin/env bash
# Writes the lock files of this folder: `make lock`. Arguments go to uv, e.g. --upgrade.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-uv}
options=("$@")

# lock NAME HEADING WHAT...: compiles WHAT into NAME.txt, under HEADING.
# 3.11.5 is the oldest patch of Python 3.11 for which every pinned package has a release.
lock() {
  local file=requirements/$1.txt heading=$2
  shift 2
  "$uv" pip compile --quiet --universal --python-version 3.11.5 --generate-hashes --no-header \
    --annotation-style line --constraint constraints.txt --output-file "$file" "$@" "${options[@]}"
  {
    cat <<END
# $heading
# Covered: each package, and all that it asks for, by the SHA-256 of its files on PyPI, for Python
# 3.11.5 and newer on Linux, macOS and Windows. Not covered: Python, and the pip that came with it.
# Written by \`make lock\` from pyproject.toml, constraints.txt and requirements/*.in.

END
    cat "$file"
  } >"$file.new"
  mv "$file.new" "$file"
}

lock torch-pypi "torch as PyPI has it, with the CUDA libraries that its build for Linux asks for." \
  requirements/torch.in
# torch is in a file of its own, since there is more than one build of it; what only that of PyPI
# asks for must not come with the others.
without_torch=(--no-emit-package=torch)
while read -r name; do without_torch+=("--no-emit-package=$name"); done \
  < <(grep -oE '^(cuda|nvidia|triton)[a-z0-9-]*' requirements/torch-pypi.txt)
besides="but torch (torch-cpu.txt or torch-pypi.txt)"

lock build "What builds packages: installed first, because nothing is built in isolation." \
  requirements/build.in
lock tools "The tools of \`make release\` and \`make lock\`." requirements/tools.in \
  --constraint requirements/build.txt
lock core "All that seal needs to run, $besides." pyproject.toml "${without_torch[@]}"
lock ci "All that seal, its checks and its tests need, $besides: what CI installs." \
  pyproject.toml "${without_torch[@]}" --extra dev --constraint requirements/core.txt
lock ci-eval "ci.txt, and what the extra \`eval\` needs." \
  pyproject.toml "${without_torch[@]}" --extra dev --extra eval --constraint requirements/ci.txt
