"""Imports what an extra is for: `check_extra.py NAME`, in an environment with no other extra.

First the packages that it must bring, then the modules of ours that need it. NAME `core` is seal
without any: all of its modules must import, or one of them needs a package that nobody declared.
"""

import sys
from dataclasses import dataclass
from importlib import import_module
from pkgutil import walk_packages


@dataclass(frozen=True, slots=True)
class Use:
    """What an extra is for.

    Attributes:
        packages: What it must bring, as import names.
        modules: The modules of ours that import them.
        is_resolved_only: Whether the packages are too large to install, or import on CUDA alone:
            then it is only tried whether all of them can be had together.
    """

    packages: tuple[str, ...]
    modules: tuple[str, ...]
    is_resolved_only: bool = False


USES = {
    "judge": Use(("openai",), ("seal.judges.chat", "seal.judges.client", "seal.judges.rubric")),
    "eval": Use(
        ("inspect_ai", "lm_eval", "lm_eval.models.huggingface"),
        ("seal.inspect_tasks", "seal.tasks.harness"),
    ),
    "gpu": Use(
        ("liger_kernel.transformers",), ("seal.loss_backends.liger",), is_resolved_only=True
    ),
    "quantized": Use(("bitsandbytes",), ("seal.devices",)),
    "serve": Use(("openai",), ("seal.server",)),
    "track": Use(("torch.utils.tensorboard", "trackio", "wandb"), ("seal.tracking",)),
}

# Modules of ours that cannot be imported without their extra; the others import it when it is used.
NEED_THEIR_EXTRA = {"seal.inspect_tasks"}


def modules_of(name: str) -> list[str]:
    """What is imported for an extra, or for `core`, in order."""
    if name != "core":
        return [*USES[name].packages, *USES[name].modules]
    found = walk_packages(import_module("seal").__path__, "seal.")
    return [module.name for module in found if module.name not in NEED_THEIR_EXTRA]


def main() -> None:
    """Imports; whatever fails, fails with its own traceback."""
    (name,) = sys.argv[1:]
    origin = import_module("seal").__file__ or ""
    assert origin.startswith(sys.prefix), f"not the installed seal: {origin}"
    modules = modules_of(name)
    for module in modules:
        import_module(module)
    print(f"{name}: {len(modules)} modules imported")


if __name__ == "__main__":
    main()
