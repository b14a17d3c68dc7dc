# Sourced by run.sh and test.sh: makes .venv if absent and installs the named extras.
# PYTHON chooses the interpreter that a new environment is made with (3.11 or newer).
extras=$1
if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2
    exit 2
  }
  "${PYTHON:-python3}" -m venv .venv
fi
# Installed already for this setup.py and these extras: nothing to do.
wanted="$(cksum <setup.py) $extras"
if ! grep -qxF "$wanted" .venv/installed 2>/dev/null; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$extras]"
  echo "$wanted" >>.venv/installed
fi
