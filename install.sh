#!/usr/bin/env bash
# BranchFit from a checkout: sets up what it needs in .venv beside this file (.venv-all, .venv-oldest and
# .venv-gradio-* for test --all). Without a word, or with options alone, it then sets BranchFit up in your
# text-generation-webui, which is `branchfit setup`: what it changes there, and how it is undone, is in docs/setup.md.
#
#   ./install.sh               find the webui, install BranchFit into it, enable it there
#   ./install.sh --webui DIR   the same for this one; every option of `branchfit setup` goes here:
#                              --dry-run, --uninstall, --python PYTHON, --gptq, --own-folder, --yes, --fetch-from URL
#   ./install.sh command       the command alone, in .venv; no webui is looked for
#   ./install.sh demo          the main job, start to end, on an embedded Hub: no network, no GPU
#   ./install.sh test          the tests that need no torch
#   ./install.sh test --all    everything: installs the [gptq] extra (a few GB), tests both ends of every range
#   ./install.sh help          this text
#
# BRANCHFIT_PYTHON names the interpreter to use (default: the first of python3.11, python3, python3.12,
# python3.13, python3.10 that is Python 3.10 or newer).
set -euo pipefail

self=${BASH_SOURCE[0]:-$0}
while [ -L "$self" ]; do # called by a link: the checkout is where the file itself is
  target=$(readlink -- "$self")
  case $target in /*) self=$target ;; *) self=$(dirname "$self")/$target ;; esac
done
root=$(CDPATH='' cd -- "$(dirname -- "$self")" && pwd -P)
venv="$root/.venv"
all="$root/.venv-all"       # the one with torch
oldest="$root/.venv-oldest" # the other end of every range

say() { printf '%s\n' "branchfit: $*" >&2; }
die() { say "$*"; exit 1; }

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$self"; }

runs() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

find_python() {
  local candidate
  if [ -n "${BRANCHFIT_PYTHON:-}" ]; then
    runs "$BRANCHFIT_PYTHON" || die "BRANCHFIT_PYTHON=$BRANCHFIT_PYTHON is no Python 3.10 or newer that runs"
    command -v "$BRANCHFIT_PYTHON"
    return
  fi
  for candidate in python3.11 python3 python3.12 python3.13 python3.10; do
    # Version managers leave shims that exist and do not run, so the interpreter itself is asked.
    if runs "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python 3.10 or newer found; install one, or name it with BRANCHFIT_PYTHON=/path/to/python3"
}

# make_venv PYTHON FOLDER [OPTION...]: an environment with pip; one that somebody else made is never deleted
make_venv() {
  local python=$1 folder=$2 said
  shift 2
  if [ -e "$folder" ]; then
    "$folder/bin/python" -m pip --version >/dev/null 2>&1 && return
    [ -f "$folder/.branchfit" ] || die "$folder is there, has no pip and was not made by this script: move it away"
    rm -rf "$folder"
  fi
  mkdir -p "$folder" || die "$folder cannot be made; is this folder writable?"
  touch "$folder/.branchfit"
  said=$("$python" -m venv "$@" "$folder" 2>&1) && return
  # Debian's python3 comes without ensurepip; a pip of 22.3 or newer can still fill an empty environment.
  if "$python" -m venv --without-pip "$@" "$folder" >/dev/null 2>&1 &&
    "$python" -m pip --python "$folder/bin/python" install -q pip >/dev/null 2>&1; then
    return
  fi
  rm -rf "$folder"
  printf '%s\n' "$said" >&2
  die "$python cannot make a virtual environment (its words are above). On Debian and Ubuntu: apt install python3-venv"
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

# make_pages: the two ends of what webuis run their page on, for the tests of the tab in a real browser. Those need
# numpy 1.24 and so Python 3.11 or older, Chromium and chromedriver; without them they are skipped, and say so.
make_pages() {
  local python version pythons=""
  if [ -n "${BRANCHFIT_GRADIO_PYTHONS:-}" ]; then return; fi
  python=$(command -v python3.11 || command -v python3.10) && runs "$python" || return 0
  if ! command -v chromedriver >/dev/null; then
    if [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      say "installing Chromium for the tests of the tab"
      { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 ||
        return 0
    else
      return 0
    fi
  fi
  for version in 3.33 4.37; do
    make_venv "$python" "$root/.venv-gradio-$version"
    install_into "$root/.venv-gradio-$version" ".branchfit-page-$(cksum <"$root/tests/pages/gradio-$version.txt" | cut -d ' ' -f 1)" \
      -r "$root/tests/pages/gradio-$version.txt"
    pythons="${pythons:+$pythons:}$root/.venv-gradio-$version/bin/python"
  done
  export BRANCHFIT_GRADIO_PYTHONS="$pythons"
}

run_tests() {
  local python failed=0
  python=$(find_python)
  if [ "${1:-}" != "--all" ]; then
    make_venv "$python" "$venv"
    install_into "$venv" .branchfit-test -e "${root}[dev]"
    pytest_in "$venv" "$@"
    return
  fi
  shift
  # Both ends at once: a good part of the tests is waiting, and the packages of one end need minutes to come.
  log=$(mktemp)
  test_oldest "$python" "$@" >"$log" 2>&1 &
  second=$!
  trap 'kill "$second" 2>/dev/null || true; rm -f "$log"' EXIT
  export GPTQMODEL_CPU_WORKERS="${GPTQMODEL_CPU_WORKERS:-2}"
  if [ "${CI:-}" = true ]; then
    make_venv "$python" "$all"
    # torch first: gptqmodel's build looks for the torch that is there.
    install_into "$all" .branchfit-torch torch==2.13.0
    install_into "$all" .branchfit-all -e "${root}[dev,gptq]" \
      torch==2.13.0 gptqmodel==7.6.0 transformers==5.23.0 optimum==2.3.0
  else
    # A torch that is already there is used: it is the largest download, and the one with the GPU's libraries.
    if "$python" -c 'import torch' >/dev/null 2>&1; then
      make_venv "$python" "$all" --system-site-packages
    else
      make_venv "$python" "$all"
    fi
    install_into "$all" .branchfit-all -e "${root}[dev,gptq]"
  fi
  BRANCHFIT_NEEDS_GPTQ=1 BRANCHFIT_GRADIO_PYTHONS="" pytest_in "$all" "$@" || failed=1
  say "once more with the oldest versions of every dependency (begun at the same time; this is what it printed)"
  wait "$second" || failed=1
  cat "$log"
  return "$failed"
}

# test_oldest PYTHON [OPTION...]: the same tests with the oldest versions that pyproject.toml admits; does not return
test_oldest() {
  local python=$1
  shift
  make_venv "$python" "$oldest"
  install_into "$oldest" .branchfit-test -e "${root}[dev]" -c "$root/tests/oldest.txt"
  # The pages have a Python of their own, which is the same at both ends: here, since this end has less to install.
  make_pages
  cd "$root" # and exec: who ends this process ends the tests
  exec "$oldest/bin/python" -m pytest -o cache_dir=.pytest_cache/oldest "$@"
}

main() {
  local python
  case "${1:-}" in
    help | -h | --help)
      usage
      ;;
    "" | -*)
      python=$(find_python)
      make_venv "$python" "$venv"
      install_into "$venv" .branchfit-command -e "$root"
      exec "$venv/bin/branchfit" setup "$@"
      ;;
    command)
      python=$(find_python)
      make_venv "$python" "$venv"
      install_into "$venv" .branchfit-command -e "$root"
      say "ready. Put it on your PATH for this shell with:  . '$venv/bin/activate'"
      say "then:  branchfit --help"
      ;;
    demo)
      shift
      python=$(find_python)
      make_venv "$python" "$venv"
      install_into "$venv" .branchfit-command -e "$root"
      exec "$venv/bin/branchfit" demo "$@"
      ;;
    test)
      shift
      run_tests "$@"
      ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
}

main "$@"
