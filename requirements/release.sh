#!/usr/bin/env bash
# Builds and checks what would be published, into dist/: `make release`. It uploads nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(realpath "$TOOLS")
rm -rf dist
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$tools/bin/python" -m build --no-isolation >"$scratch/build.log" || { cat "$scratch/build.log"; exit 1; }
"$tools/bin/twine" check --strict dist/*
wheel=$(echo dist/*.whl)

# What must be in the wheel, and what must not.
"$tools/bin/python" - "$wheel" <<'END'
import sys
from zipfile import ZipFile

names = ZipFile(sys.argv[1]).namelist()
assert any(n.startswith("seal/lab/") and n.endswith(".safetensors") for n in names), "no lab model"
assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names), "no LICENSE"
foreign = [n for n in names if not n.startswith(("seal/", "seal-"))]
foreign += [n for n in names if "test" in n.rsplit("/", 1)[-1].split("_") or "/tests/" in n]
assert not foreign, f"does not belong into the wheel: {foreign}"
print(f"{sys.argv[1]}: {len(names)} files, with the lab model, without tests")
END

# The wheel with the locked packages and nothing of this checkout: it must run, and is what the SBOM lists.
"${PYTHON:-python3}" -m venv "$scratch/venv"
requirements/install.sh "$scratch/venv" core "$wheel"
(
  cd "$scratch"
  venv/bin/seal --help >help.txt
  venv/bin/seal config init run.yaml >init.txt
  test -s run.yaml
  echo "the installed wheel: seal --help, seal config init: good"
)
"$scratch/venv/bin/python" -m pip uninstall --quiet --yes pip # it came with venv
"$tools/bin/cyclonedx-py" environment "$scratch/venv/bin/python" --pyproject pyproject.toml \
  --mc-type library --output-reproducible --output-format JSON \
  --output-file "${wheel%-py3-none-any.whl}.cdx.json"

cd dist
sha256sum -- * | tee "$scratch/SHA256SUMS"
mv "$scratch/SHA256SUMS" .
