# shellcheck shell=bash
# Sourced by the scripts beside it. `ensure_env` makes $ROOT/.venv hold what constraints.txt pins,
# and returns at once when it already does.
#
#   PYTHON   the interpreter to make .venv with (default: the first fit one on PATH)

ROOT=$(CDPATH='' cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
# Nothing from the caller's own environment may stand in for a pinned package.
unset PYTHONHOME PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

say() {
    printf 'nbgather: %s\n' "$*" >&2
}

# "3.11 /usr/bin/python3.11" for an interpreter that runs, nothing for one that does not.
probe() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null || true
}

# Is version $1 at least 3.10?
new_enough() {
    [ "${1%%.*}" -gt 3 ] || { [ "${1%%.*}" -eq 3 ] && [ "${1#*.}" -ge 10 ]; }
}

# Sets `python` and `version` to the interpreter to use.
find_python() {
    local name found missing='' old=''
    if [ -n "${PYTHON:-}" ]; then
        found=$(probe "$PYTHON")
        [ -n "$found" ] || die "PYTHON=$PYTHON does not run as a Python interpreter"
        version=${found%% *} python=${found#* }
        new_enough "$version" || die "Python 3.10 or newer is needed, and PYTHON=$PYTHON is $version"
        return
    fi
    for name in python3 python3.13 python3.12 python3.11 python3.10 python3.14 python; do
        found=$(probe "$name")
        [ -n "$found" ] || continue
        version=${found%% *} python=${found#* }
        if ! new_enough "$version" || [ "${version#3.}" -gt 14 ]; then
            old="${old:-, only $version ($python)}"
        elif "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            return
        else
            missing=${missing:-$python}
        fi
    done
    [ -z "$missing" ] || no_venv "$missing"
    die "Python 3.10 to 3.14 is needed, and none was found on PATH$old; set PYTHON=/path/to/python3"
}

no_venv() {
    die "$1 cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"
}

# What .venv must have been made from to be left alone.
fingerprint() {
    local version
    version=$(probe "$VENV/bin/python")
    printf '%s\n' "$ROOT" "${version%% *}"
    cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt"
}

is_ready() {
    [ -f "$VENV/.stamp" ] && [ -x "$VENV/bin/python" ] && fingerprint | cmp -s - "$VENV/.stamp"
}

# Does .venv run, and is every file of every package in it there? An install that was cut short
# leaves packages that pip takes for complete.
is_whole() {
    "$VENV/bin/python" - 2>/dev/null <<'PY'
import sys, sysconfig
from importlib.metadata import distributions

import pip

for dist in distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]):
    if dist.read_text("RECORD") is None:
        sys.exit(1)
    if not all(f.locate().exists() for f in dist.files if f.suffix != ".pyc"):
        sys.exit(1)
PY
}

ensure_env() {
    local python='' version='' found log=$ROOT/build/install.log lock=''

    [ -z "${PYTHON:-}" ] || find_python
    if is_ready; then
        found=$(probe "$VENV/bin/python")
        [ -n "${PYTHON:-}" ] && [ "$version" != "${found%% *}" ] || return 0
    fi

    # One run at a time; the lock is on the folder itself and goes with the process.
    if command -v flock >/dev/null && exec 9<"$ROOT"; then
        lock=yes
        if ! flock -n 9; then
            say "waiting for another run to finish installing"
            flock 9
        fi
    fi

    found=$(probe "$VENV/bin/python")
    if [ -n "${PYTHON:-}" ] && [ -n "$found" ] && [ "$version" != "${found%% *}" ]; then
        say ".venv has Python ${found%% *} and PYTHON is $version: making it anew"
        found=''
    elif is_ready; then # the other run did it
        exec 9<&-
        return 0
    elif [ -n "$found" ] && ! { new_enough "${found%% *}" && is_whole; }; then
        say ".venv is incomplete: making it anew"
        found=''
    fi

    mkdir -p "$ROOT/build" && : >"$log" || die "cannot write $log"
    rm -f "$VENV/.stamp"
    if [ -z "$found" ]; then
        [ -n "$python" ] || find_python
        "$python" -c 'import ensurepip, venv' 2>/dev/null || no_venv "$python"
        say "making .venv with Python $version"
        "$python" -m venv --clear "$VENV" >>"$log" 2>&1 ||
            die "cannot make $VENV: $(tail -n 1 "$log"); log: $log"
    fi
    say "installing what constraints.txt pins (minutes the first time)"
    "$VENV/bin/python" -m pip install -c "$ROOT/constraints.txt" -e "$ROOT[dev]" >>"$log" 2>&1 ||
        die "cannot install what constraints.txt pins$(why "$log"); log: $log"
    fingerprint >"$VENV/.stamp"
    [ -z "$lock" ] || exec 9<&-
}

# The reason pip gives in its log, cut to fit a line.
why() {
    local unreachable='NewConnection|NameResolution|ConnectTimeout|Connection(Reset)?Error|ProxyError|ReadTimeout|SSLError|\(from versions: none\)'
    if grep -qE "$unreachable" "$1" && ! grep -q 'OSError: \[Errno' "$1"; then
        printf ' (the network, or the package index, cannot be reached)'
    else
        grep '^ *ERROR: ' "$1" | tail -n 1 | sed 's/^ *ERROR: /: /' | cut -c -200
    fi
}
