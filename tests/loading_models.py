"""Small real GPTQ folders, and Pythons to have them loaded by."""

from __future__ import annotations

from pathlib import Path

from branchfit.demo.synth import Recipe, write_model
from branchfit.gpus import parse_gpus
from branchfit.gpus.system import Memory
from branchfit.loaders import Host as Packages
from branchfit.shape import ModelShape

SHAPE = ModelShape("llama", 256, 512, 2, 8, 2, 32, 320, 4096)
NAME = "owner_Tiny-GPTQ"

RAM = Memory(64 * 2**30, 60 * 2**30)
ONE_GPU = parse_gpus(["24GiB@8.6"], RAM)
TWO_GPUS = parse_gpus(["24GiB@8.6x2"], RAM)
OLD_GPU = parse_gpus(["24GiB@6.1"], RAM)
NO_GPU = parse_gpus(["none"], RAM)

GPTQMODEL = {"torch": "2.9", "transformers": "5.6.2", "optimum": "2.3.0", "gptqmodel": "7.6.0", "triton": "3.5"}
AUTOGPTQ = {"torch": "2.1", "transformers": "4.41", "optimum": "1.17", "auto_gptq": "0.7.1"}
EXLLAMA_V2 = {"torch": "2.4", "transformers": "4.46", "exllamav2": "0.2.7", "exllamav2_ext": "0.2.7"}
EXLLAMA_V1 = {"torch": "2.0.1", "transformers": "4.33", "exllama": "0.0.17", "exllama_ext": "0.0.17"}


def packages(*found: dict[str, str], nvcc: bool = False) -> Packages:
    """A Python with these packages (import names) and no others."""
    versions = {name: version for each in found for name, version in each.items()}
    return Packages(versions.__contains__, versions.get, "/usr/bin/nvcc" if nvcc else None, "linux", (3, 11))


def write(models_dir: Path, recipe: Recipe, name: str = NAME) -> Path:
    folder = models_dir / name
    write_model(folder, SHAPE, recipe, fill="random")
    return folder
