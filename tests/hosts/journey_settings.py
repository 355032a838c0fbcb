"""What a webui's own loader would be given for a quantised model, on a machine that is not here.

    PYTHON journey_settings.py MODEL_FOLDER     in the webui's folder, by the webui's own Python

BranchFit plans and loads as ever; the GPU and the loaders' packages are said to be there, and the one function
of the webui that would read the weights is replaced by one that writes down what it is given. Everything before
it is the webui's own code: that is what the printed settings went through. One JSON document on stdout.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

GPU = "24GiB@8.6"
CONTEXT_TOKENS = 4096
RUNTIMES = ("exllamav2", "exllama", "auto_gptq")
PACKAGES = {"exllamav2": "0.0.5", "exllama": "0.0.17", "auto_gptq": "0.4.2", "exllama_ext": "0.0.17"}
"""Import names and versions that requirements.txt of v1.7 brings to a machine with a GPU."""

MARK = "journey settings:"


class Enough(RuntimeError):
    """The loader's function was reached."""


def given(host: Any, folder: Path, runtime: str) -> dict[str, Any]:
    from branchfit.gpus.given import parse_gpus
    from branchfit.loaders import this_host
    from branchfit_webui import loading

    here = this_host()
    packages = replace(
        here,
        has=lambda name: name in PACKAGES or here.has(name),
        version=lambda name: {"torch": "2.1.0+cu121"}.get(name) or PACKAGES.get(name) or here.version(name),
        nvcc="simulated",
    )
    machine = parse_gpus([GPU])
    plan = loading.plan_load(
        host, folder, runtime=runtime, context_tokens=CONTEXT_TOKENS, machine=machine, packages=packages
    )
    seen: dict[str, Any] = {}
    params = host.offered_loaders()[plan.loader]

    def reached(*arguments: Any) -> Any:
        seen.update(arguments=list(map(str, arguments)))
        seen.update(args={name: getattr(host.args, name) for name in params if hasattr(host.args, name)})
        raise Enough

    setattr(host.models, host.load_function(plan.loader), reached)
    try:
        loading.load(host, plan, on_step=lambda step: None)
    except Exception as error:  # noqa: BLE001 - however the stop is worded on its way up
        seen["ended"] = f"{type(error).__name__}: {error}"[:200]
    return {
        "asked": runtime,
        "loader": plan.loader,
        "function": host.load_function(plan.loader),
        "planned": dict(plan.settings),
        "reason": plan.reason,
        "notes": list(plan.notes),
        **seen,
    }


def main() -> None:
    folder = Path(sys.argv[1])
    sys.argv = ["server.py", "--cpu", "--model-dir", str(folder.parent)]
    sys.path.insert(0, "")

    from branchfit_webui.host import Host

    host = Host()
    found = []
    for runtime in RUNTIMES:
        try:
            found.append(given(host, folder, runtime))
        except Exception as error:  # noqa: BLE001 - said in the document
            found.append({"asked": runtime, "refused": f"{type(error).__name__}: {error}"})
    print(MARK, json.dumps({"gpu": GPU, "context_tokens": CONTEXT_TOKENS, "found": found}, default=str))


if __name__ == "__main__":
    main()
