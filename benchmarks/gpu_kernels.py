"""Do GPTQ checkpoints in AutoGPTQ's layout load and compute right on this GPU, and how fast, runtime by runtime?

    python benchmarks/gpu_kernels.py --out benchmarks/gpu_kernels/h100-2026-11-25.jsonl
    python benchmarks/gpu_kernels.py --table benchmarks/gpu_kernels/*.jsonl > benchmarks/gpu_kernels/README.md
    python benchmarks/gpu_kernels.py --cpu --out /tmp/cpu.jsonl      # the harness alone, with the torch kernel

It needs a CUDA GPU, nvcc, and the extras `[gptq]` and `[exllama]`; a runtime that is not there is skipped and named,
and without CUDA the exit code is 77. Every case is a line of the --out file as soon as it is done; the same command
goes on where it was, and tries what failed again. Each runtime runs in processes of its own, under a time limit.

Right: logits over the exact Alpaca-CoT prompt, once read whole and once with its last tokens fed one by one (runtimes
have other kernels for one row than for many), against a plain fp32 Llama whose weights are rounded here from the
float ones, never read from packed words. How far fp16 may be off is measured, not chosen: the same dequantised Llama,
dense, in fp16 on this GPU, with sums in fp32 and with sums in fp16; `FACTOR` times the larger is the tolerance. The
controls are copies of the checkpoint with one thing wrong (`CONTROLS`); they must fail it.

Fast: a shape of full size with random codes. Tokens of a prompt read per second; tokens per second by the runtime's
own way to generate; the same in a bare loop; and what the GPU itself was busy with, summed over kernels.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from gpu_kernels.cases import NO_COMPILE, RECIPES, ROUNDED, SHAPES, VARIANTS, Variant, judge, lacks, make, needs_nvcc
from gpu_kernels.fast import build, speed
from gpu_kernels.records import Record, append, environment, record_key, records_in
from gpu_kernels.right import correctness, reference_cases
from gpu_kernels.table import page, section


def child(spec: Record) -> None:
    """Do the cases of one process, each a line in the file as soon as it is done."""
    out, work, device = Path(spec["out"]), Path(spec["work"]), spec["device"]
    cases = [tuple(case) for case in spec["cases"]]
    import torch

    torch.set_grad_enabled(False)
    if spec["kind"] == "reference":
        for record in reference_cases(cases, work, device):
            append(out, record)
        return
    variant = VARIANTS[spec["variant"]]
    for shape, branch in cases:
        record = {"kind": spec["kind"], "variant": variant.name, "shape": shape, "branch": branch}
        verdict = None
        if shape and variant.name != "dense":
            verdict = judge(variant, shape, branch, device)
            record["can_load"] = verdict.can
        try:
            if spec["kind"] == "build":
                record.update(build(variant))
            elif spec["kind"] == "correctness":
                record.update(correctness(variant, shape, branch, work, device))
            else:
                record.update(speed(variant, shape, branch, work, device))
        except Exception as error:  # noqa: BLE001 (whatever a runtime says about a checkpoint is the result)
            record["error"] = f"{type(error).__name__}: {error}"[:600]
        if verdict is not None and not verdict.can:
            record["why"] = verdict.why
        append(out, record)
        gc.collect()


class Bench:
    """Runs the cases that the file does not have yet."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.out, self.work, self.limit_s = options.out, options.work, options.timeout
        self.device = "cpu" if options.cpu else "cuda:0"
        self.ends = time.monotonic() + options.minutes * 60

    def todo(self, kind: str, variant: str, cases: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        done = records_in(self.out)
        left = []
        for shape, branch in cases:
            record = done.get((kind, variant, shape, branch))
            # What branchfit refuses is expected to fail, and is not tried again.
            fails = record is None or ("error" in record and record.get("can_load", True))
            if fails or (kind == "reference" and not (self.work / shape / branch / "reference.pt").is_file()):
                left.append((shape, branch))
        return left

    def run(self, kind: str, variant: str, cases: list[tuple[str, str]]) -> None:
        """Processes until every case has a record of this call, or the time is up."""
        left = self.todo(kind, variant, cases)
        while left and time.monotonic() < self.ends and (kind == "build" or not self.unbuilt(variant)):
            print(f"{kind} {variant}: {len(left)} cases", flush=True)
            seen = self.out.stat().st_size
            code, log = self._process(kind, variant, left)
            done = self._cases_since(seen, kind, variant)
            left = [case for case in left if case not in done]
            if left and time.monotonic() < self.ends:
                why = "took too long" if code is None else f"ended with {code}"
                shape, branch = left.pop(0)
                tail = log.read_text(encoding="utf-8", errors="replace")[-600:]
                record = {"kind": kind, "variant": variant, "shape": shape, "branch": branch}
                append(self.out, {**record, "error": f"the process {why}: {tail}"})

    def unbuilt(self, variant: str) -> bool:
        """Whether the runtime's kernels could not be compiled, so that nothing of it needs trying."""
        record = records_in(self.out).get(("build", variant.partition("+")[0], "", ""))
        return record is not None and "error" in record

    def _cases_since(self, size: int, kind: str, variant: str) -> set[tuple[str, str]]:
        """The cases that have come into the file since it had this size."""
        lines = self.out.read_bytes()[size:].decode().splitlines()
        new = {record_key(json.loads(line)) for line in lines}
        return {(shape, branch) for *of, shape, branch in new if of == [kind, variant]}

    def _process(self, kind: str, variant: str, cases: list[tuple[str, str]]) -> tuple[int | None, Path]:
        spec = {"kind": kind, "variant": variant, "cases": cases, "device": self.device}
        spec.update({"out": str(self.out), "work": str(self.work)})
        environ = {**os.environ, **(VARIANTS[variant].environ if variant else {})}
        if self.device == "cpu":
            # gptqmodel asks for more workers than a small machine has, and compiles anew for every shape.
            environ.update({"GPTQMODEL_CPU_WORKERS": "2", **NO_COMPILE})
        log = self.out.with_suffix(f".{kind}-{variant.replace(':', '_') or 'dense'}.log")
        command = [sys.executable, __file__, "--child", json.dumps(spec)]
        limit_s = max(1.0, min(self.limit_s, self.ends - time.monotonic()))
        with log.open("ab") as file:
            try:
                return subprocess.run(command, env=environ, stdout=file, stderr=file, timeout=limit_s).returncode, log
            except subprocess.TimeoutExpired:
                return None, log


def chosen_variants(names: list[str] | None, cpu: bool) -> list[Variant]:
    """The variants asked for, less those that cannot run here."""
    asked = [variant for variant in VARIANTS.values() if not names or variant.name in names]
    if cpu:
        asked = [variant for variant in asked if variant.name == "gptqmodel:torch"]
    found = []
    for variant in asked:
        lacking = lacks(variant)
        if lacking:
            print(f"{variant.name}: skipped, {lacking} is not installed", file=sys.stderr)
        else:
            found.append(variant)
    return found


def bench(options: argparse.Namespace) -> int:
    import torch

    if not options.cpu and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no CUDA GPU here; --cpu tries the harness without one.", file=sys.stderr)
        return 77
    options.out.parent.mkdir(parents=True, exist_ok=True)
    runs = Bench(options)
    append(options.out, environment(runs.device))
    variants = chosen_variants(options.runtime, options.cpu)
    pairs = [
        (shape, branch)
        for shape in options.shape
        for branch in options.branch or RECIPES[shape]
        if branch in RECIPES[shape]
    ]
    rounded_pairs = [pair for pair in pairs if pair[0] in ROUNDED] if "correctness" in options.what else []
    # A speed on the demo's shape says nothing but that the harness works.
    sized_pairs = [pair for pair in pairs if pair[0] not in ROUNDED or options.smoke] if "speed" in options.what else []

    with ThreadPoolExecutor(8) as compilers, ThreadPoolExecutor(options.jobs) as threads:
        # Compilers and checkpoints at the same time: the first wait for few cores, the others for one each.
        compiled = [] if options.cpu else dict.fromkeys(one.runtime for one in variants if needs_nvcc(one))
        builds = {name: compilers.submit(runs.run, "build", name, [("", "")]) for name in compiled}
        with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) // 2)) as makers:
            for made in [makers.submit(make, options.work, *pair) for pair in {*rounded_pairs, *sized_pairs}]:
                made.result()
        print("checkpoints are made", flush=True)
        runs.run("reference", "", rounded_pairs)

        def check(variant: Variant) -> None:
            if variant.runtime in builds:
                builds[variant.runtime].result()
            able = [pair for pair in rounded_pairs if judge(variant, *pair, runs.device).can]
            # The refused last: what they do to a process no longer matters then.
            runs.run("correctness", variant.name, [*able, *(pair for pair in rounded_pairs if pair not in able)])

        for check_done in [threads.submit(check, variant) for variant in variants if variant.name != "dense"]:
            check_done.result()
        for build_done in builds.values():
            build_done.result()
    # One after another, and one process a case, so that time and memory are the case's own.
    for pair in sized_pairs:
        for variant in variants:
            if variant.name == "dense" or judge(variant, *pair, runs.device).can:
                runs.run("speed", variant.name, [pair])
    print("\n" + section(options.out))
    return 0


def main() -> int:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_kernels.jsonl"), help="the file of results, appended to")
    parser.add_argument("--work", type=Path, help="where checkpoints are made and kept (default: a temporary folder)")
    parser.add_argument("--runtime", nargs="+", metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["demo", "wide", "7b"])
    parser.add_argument("--branch", nargs="+", metavar="NAME", help="only these branches of each shape")
    parser.add_argument("--what", nargs="+", choices=["correctness", "speed"], default=["correctness", "speed"])
    parser.add_argument("--jobs", type=int, default=1, help="runtimes tried for correctness at the same time")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds one process may take")
    parser.add_argument("--minutes", type=float, default=1e6, help="start nothing new after that many")
    parser.add_argument("--smoke", action="store_true", help="measure speed on small shapes too")
    parser.add_argument("--cpu", action="store_true", help="the harness on the CPU, with the torch kernel alone")
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE", help="print results as Markdown, run nothing")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
        return 0
    if options.table:
        print(page(options.table), end="")
        return 0
    if options.cpu:
        options.shape = [shape for shape in options.shape if shape == "demo"]
        options.smoke = True
    if options.work is not None:
        return bench(options)
    with tempfile.TemporaryDirectory() as scratch:
        options.work = Path(scratch)
        return bench(options)


if __name__ == "__main__":
    sys.exit(main())
