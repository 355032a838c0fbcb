"""What a machine has, as data: its GPUs, who holds their memory, its RAM, and what went wrong."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Gpu", "Holder", "Machine"]


@dataclass(frozen=True)
class Holder:
    """A process that holds memory of a GPU.

    `used_bytes` is None where the driver will not say: Windows' WDDM keeps it to itself, and so does WSL.
    """

    pid: int
    name: str
    used_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One device a model can be put on, as the driver sees it at this moment.

    `index` is the ordinal torch gives the device (`cuda:0`), after CUDA_VISIBLE_DEVICES and its kin.
    `compute_capability` is NVIDIA's, "8.6"; None where it is unknown or there is none.
    `source` says who answered: "nvml", "rocm", "mps", "given" (--gpu) or "none" (the CPU).
    `kind` is what torch calls the device: "cuda", "rocm", "mps" or "cpu".
    """

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: str | None
    source: str
    holders: tuple[Holder, ...] = ()
    kind: str = "cuda"


@dataclass(frozen=True)
class Machine:
    """A machine's devices and RAM. An empty `gpus` is a machine without a GPU.

    `notes` are whole sentences: what was looked for and not found, what a driver answered instead
    of a number, what torch will see differently. `system_free_bytes` is what programs may still take
    (Linux: MemAvailable, less where a cgroup limits it).
    """

    gpus: tuple[Gpu, ...]
    notes: tuple[str, ...]
    system_total_bytes: int
    system_free_bytes: int

    @property
    def cpu(self) -> Gpu:
        """The machine's memory as a device, for runtimes that also run without a GPU."""
        return Gpu(
            index=0,
            name="CPU (no GPU)",
            total_bytes=self.system_total_bytes,
            free_bytes=self.system_free_bytes,
            compute_capability=None,
            source="none",
            kind="cpu",
        )
