# Sourced by run.sh and test.sh: makes $root/.venv if absent and installs the extras named.
# PYTHON chooses the interpreter that a new environment is made with (3.11 or newer).
extras=$1
if [ ! -x "$root/.venv/bin/python" ]; then
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2
    exit 2
  }
  "${PYTHON:-python3}" -m venv "$root/.venv"
fi
# Installed already for this setup.py, C++ code and these extras, and no copy of the
# sources put in the place of the clone by a `pip install .`: nothing to do.
wanted="$(cat "$root/setup.py" "$root"/nfnets/data/native/*.{h,cc} | cksum) $extras"
if ! grep -qxF "$wanted" "$root/.venv/installed" 2>/dev/null ||
  ! grep -qs '"editable": true' "$root"/.venv/lib/python*/site-packages/nfnets_flax-*/direct_url.json; then
  echo "installing the packages of setup.py ($extras) into $root/.venv" >&2
  "$root/.venv/bin/python" -m pip install -qq --disable-pip-version-check \
    -e "$root[$extras]"
  echo "$wanted" >>"$root/.venv/installed"
fi
