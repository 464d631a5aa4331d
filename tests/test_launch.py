"""The launch files that are shipped: accelerate and the shell can read them."""

import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

FOLDER = Path(__file__).parent.parent / "experiments" / "launch"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
SCRIPTS = [FOLDER / "multi-node.sh", FOLDER / "slurm.sbatch"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_accelerate_reads_it(path, monkeypatch):
    config = load_config_from_file(str(path))
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}
    assert config.distributed_type == kinds[path.stem]
    assert not config.use_cpu
    # What `accelerate launch` makes of it, with a key it does not know refused.
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    words = ["--config_file", str(path), "--num_processes", "2", "-m", "seal", "train", "x.yaml"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert (args.num_processes, args.module, args.training_script) == (2, True, "seal")
    sections = [
        yaml.safe_load(path.read_text()).get(f"{kind}_config") for kind in ("fsdp", "deepspeed")
    ]
    for section in filter(None, sections):
        for key, value in section.items():
            assert str(getattr(args, key)).lower() == str(value).lower(), key


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_the_shell_reads_it(path):
    shell = path.read_text().splitlines()[0].removeprefix("#!")
    checked = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("path", [*CONFIGS, *SCRIPTS], ids=lambda path: path.name)
def test_its_head_has_the_command_and_says_what_was_not_run(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"experiments/launch/{path.name}" in line and "CONFIG" in line for line in head)
    assert any("Not run:" in line for line in head)
    assert all(len(line) <= 110 for line in path.read_text().splitlines())
