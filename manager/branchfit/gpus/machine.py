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

    The total is free + held back + reserved + what the holders have + what nobody's name is known of.
    `free_bytes` is what a model may take: the driver's own figure is `driver_free_bytes`, and `held_back_bytes` is
    the part of it that is left to the desktop, or that Windows keeps from one process; a note says which.
    `reserved_bytes` is the driver's own, no process's; None where it is not told. `ecc` and `display` (a screen is
    driven from it) are None where unknown. `unified` is a chip whose memory is the machine's. `address` is the PCI
    address. `bus_bytes_per_s` and `memory_bytes_per_s` are the most that its bus and its memory can carry by their
    clocks and widths, None where the driver does not tell them.
    """

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: str | None
    source: str
    holders: tuple[Holder, ...] = ()
    kind: str = "cuda"
    reserved_bytes: int | None = None
    held_back_bytes: int = 0
    ecc: bool | None = None
    display: bool | None = None
    unified: bool = False
    address: str | None = None
    bus_bytes_per_s: int | None = None
    memory_bytes_per_s: int | None = None

    @property
    def driver_free_bytes(self) -> int:
        """What the driver calls free, the part that is held back included."""
        return self.free_bytes + self.held_back_bytes

    @property
    def unnamed_bytes(self) -> int:
        """What is taken and neither the driver's reserve nor a process's that is known by name and size."""
        named = sum(holder.used_bytes or 0 for holder in self.holders) + (self.reserved_bytes or 0)
        return max(0, self.total_bytes - self.driver_free_bytes - named)


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
