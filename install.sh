#!/usr/bin/env bash
# BranchFit from a checkout: sets up what it needs in .venv beside this file, and touches nothing else.
#
#   ./install.sh               set up the command in .venv
#   ./install.sh demo          the main job, start to end, on an embedded Hub: no network, no GPU
#   ./install.sh test          the tests that need no torch
#   ./install.sh test --all    everything: installs the [gptq] extra (a few GB), tests both ends of every range
#   ./install.sh help          this text
#
# BRANCHFIT_PYTHON names the interpreter to use (default: the first of python3.11, python3, python3.12,
# python3.13, python3.10 that is Python 3.10 or newer).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv="$root/.venv"

say() { printf '%s\n' "branchfit: $*" >&2; }
die() { say "$*"; exit 1; }

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }

find_python() {
  local candidate
  for candidate in "${BRANCHFIT_PYTHON:-}" python3.11 python3 python3.12 python3.13 python3.10; do
    [ -n "$candidate" ] || continue
    # Version managers leave shims that exist and do not run, so the interpreter itself is asked.
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python 3.10 or newer found; install one, or name it with BRANCHFIT_PYTHON=/path/to/python3"
}

# make_venv PYTHON FOLDER [OPTION...]
make_venv() {
  local python=$1 folder=$2
  shift 2
  [ -x "$folder/bin/python" ] && "$folder/bin/python" -m pip --version >/dev/null 2>&1 && return
  rm -rf "$folder"
  "$python" -m venv "$@" "$folder" >/dev/null 2>&1 && return
  # Debian's python3 comes without ensurepip; a pip of 22.3 or newer can still fill an empty environment.
  rm -rf "$folder"
  if "$python" -m venv --without-pip "$@" "$folder" >/dev/null 2>&1 &&
    "$python" -m pip --python "$folder/bin/python" install -q pip >/dev/null 2>&1; then
    return
  fi
  rm -rf "$folder"
  die "$python cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv"
}

# install_into FOLDER STAMP PIP-ARGUMENT...: once for each state of pyproject.toml and arguments
install_into() {
  local folder=$1 stamp=$2 wanted
  shift 2
  wanted="$* $(cksum <"$root/pyproject.toml")"
  if [ -f "$folder/$stamp" ] && [ "$(cat "$folder/$stamp")" = "$wanted" ]; then return; fi
  say "installing into $folder (once)"
  "$folder/bin/python" -m pip install -q --disable-pip-version-check "$@" ||
    die "the installation did not work; the lines above say why. Nothing outside $folder was changed."
  printf '%s' "$wanted" >"$folder/$stamp"
}

pytest_in() {
  local folder=$1
  shift
  (cd "$root" && "$folder/bin/python" -m pytest "$@")
}

run_tests() {
  local python
  python=$(find_python)
  if [ "${1:-}" != "--all" ]; then
    make_venv "$python" "$venv"
    install_into "$venv" .branchfit-test -e "${root}[dev]"
    pytest_in "$venv" "$@"
    return
  fi
  shift
  export GPTQMODEL_CPU_WORKERS="${GPTQMODEL_CPU_WORKERS:-2}"
  if [ "${CI:-}" = true ]; then
    make_venv "$python" "$venv"
    # torch first: gptqmodel's build looks for the torch that is there.
    install_into "$venv" .branchfit-torch torch==2.13.0
    install_into "$venv" .branchfit-all -e "${root}[dev,gptq]" torch==2.13.0 gptqmodel==7.6.0 transformers==5.23.0 optimum==2.3.0
  else
    # A torch that is already there is used: it is the largest download, and the one with the GPU's libraries.
    if "$python" -c 'import torch' >/dev/null 2>&1; then
      make_venv "$python" "$venv" --system-site-packages
    else
      make_venv "$python" "$venv"
    fi
    install_into "$venv" .branchfit-all -e "${root}[dev,gptq]"
  fi
  BRANCHFIT_NEEDS_GPTQ=1 pytest_in "$venv" "$@"
  # The other end of every range: what a webui of 2023 has installed.
  local oldest="$root/.venv-oldest"
  make_venv "$python" "$oldest"
  install_into "$oldest" .branchfit-test -e "${root}[dev]" -c "$root/tests/oldest.txt"
  say "once more with the oldest versions of every dependency"
  pytest_in "$oldest" "$@"
}

main() {
  local python
  case "${1:-}" in
    "")
      python=$(find_python)
      make_venv "$python" "$venv"
      install_into "$venv" .branchfit -e "$root"
      say "ready: $venv/bin/branchfit --help"
      ;;
    demo)
      shift
      python=$(find_python)
      make_venv "$python" "$venv"
      [ -f "$venv/.branchfit-test" ] || [ -f "$venv/.branchfit-all" ] || install_into "$venv" .branchfit -e "$root"
      exec "$venv/bin/branchfit" demo "$@"
      ;;
    test)
      shift
      run_tests "$@"
      ;;
    help | -h | --help)
      usage
      ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
}

main "$@"
