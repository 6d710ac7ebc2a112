#!/bin/sh
# Builds .venv from requirements.lock, or leaves it be when it is whole and current.
#
# .venv/whole is written last, and says what .venv was made of and where: without it .venv is taken for half-made, and
# a checkout that was moved gets a new one (scripts in a virtualenv carry its path).
set -eu
cd "$(dirname "$0")/.."
unset PYTHONHOME PYTHONPATH
# An empty HOME would send caches to the root folder; without one, the system's list of users says where home is.
[ -n "${HOME-}" ] || unset HOME

venv=.venv
python=$venv/bin/python
made_of() {
    cat requirements.lock pyproject.toml tools/setup.sh | cksum
    pwd -P
}
whole() { [ -x "$python" ] && [ "$(cat $venv/whole 2>/dev/null)" = "$(made_of)" ] && "$python" -c '' 2>/dev/null; }
if whole; then
    exit 0
fi
# Two at once would build into each other; the kernel frees the lock when this ends, however it ends.
if command -v flock >/dev/null; then
    exec 9<requirements.lock
    flock 9
    if whole; then
        exit 0
    fi
fi

say() { echo "setup: $*" >&2; }
new_enough() { "$@" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

base=
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if new_enough "$candidate"; then
        base=$candidate
        break
    fi
done
if [ -z "$base" ]; then
    say "there is no Python 3.11 or later${PYTHON:+ at $PYTHON}: install python3 (apt-get install python3), or name one with make PYTHON=..., then run make setup again."
    exit 1
fi

# Another Python's pip, for where Debian leaves ensurepip out of its own; --python is known from pip 22.3 on.
foreign_pip() {
    for candidate in "$base -m pip" pip3 pip "python3.14 -m pip" "python3.13 -m pip" "python3.12 -m pip" "python3.11 -m pip"; do
        # shellcheck disable=SC2086 # a command and its arguments
        if $candidate --python "$python" --version >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
}

# A .venv that was whole, here, of an older lock is brought up to date; any other is made anew.
was_whole_here() { [ -x "$python" ] && [ "$(sed -n 2p $venv/whole 2>/dev/null)" = "$(pwd -P)" ] && new_enough "$python"; }
if was_whole_here; then
    rm -f $venv/whole
else
    rm -rf $venv
    if "$base" -c 'import ensurepip, venv' 2>/dev/null; then
        say "making .venv with $("$base" --version)"
        "$base" -m venv $venv
    elif "$base" -c 'import venv' 2>/dev/null; then
        say "making .venv with $("$base" --version), without pip: it has no ensurepip"
        "$base" -m venv --without-pip $venv
    fi
fi

pip=
if [ -x "$python" ] && "$python" -m pip --version >/dev/null 2>&1; then
    pip="$python -m pip"
elif [ -x "$python" ]; then
    pip=$(foreign_pip)
    [ -z "$pip" ] || pip="$pip --python $python"
fi
if [ -z "$pip" ]; then
    version=$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    rm -rf $venv
    say "$base can't make a virtualenv with pip in it: install python$version-venv (apt-get install python$version-venv), then run make setup again."
    exit 1
fi

# pip's own configuration holds (a mirror, certificates); only what would put files elsewhere is overruled.
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1
say "installing what requirements.lock names"
# shellcheck disable=SC2086 # a command and its arguments
$pip install --quiet --no-user --require-hashes -r requirements.lock >&2
# The distribution was once called projections. A .venv that has it too would list each projection twice.
for old in "$venv"/lib/python*/site-packages/projections-[0-9]*.dist-info; do
    if [ -d "$old" ]; then
        # shellcheck disable=SC2086
        $pip uninstall --quiet --yes projections >&2
    fi
done
# Not with the lock: a project has no hash. Its build backend is locked too, so nothing is fetched for it.
# shellcheck disable=SC2086
$pip install --quiet --no-user --no-deps --no-build-isolation -e . >&2

made_of >$venv/whole.new
mv $venv/whole.new $venv/whole
say ".venv is ready"
