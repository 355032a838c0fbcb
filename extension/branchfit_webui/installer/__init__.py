"""BranchFit put into a webui, and taken out again: `branchfit setup`.

    finding     where the webui is
    layout      which kind of install it is, and what this version reads where
    plan_setup  everything that would change -> Plan, nothing changed yet
    carry_out   the changes, each recorded before it is made
    unset       the record, undone
    checkup     what is installed, enabled, loadable and missing: `branchfit doctor`

Nothing here is imported by the running webui.
"""

from __future__ import annotations

from .checkup import Checkup, check_webui
from .errors import CannotEdit, HostPythonError, SetupError, WebuiNotFound, WouldMove
from .finding import SOURCE, Found, Search, fetch, find
from .layout import EXTENSION, Layout, read_layout, webui_in
from .setting_up import Plan, Wishes, carry_out, plan_setup, unset, with_gptq

__all__ = [
    "EXTENSION",
    "SOURCE",
    "CannotEdit",
    "Checkup",
    "Found",
    "HostPythonError",
    "Layout",
    "Plan",
    "Search",
    "SetupError",
    "WebuiNotFound",
    "Wishes",
    "WouldMove",
    "carry_out",
    "check_webui",
    "fetch",
    "find",
    "plan_setup",
    "read_layout",
    "unset",
    "webui_in",
    "with_gptq",
]
