#!/usr/bin/env bash
# The built wheel, in a clean environment and away from the sources: a package that is missing from the
# build list still imports from an editable install, and only shows here.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/.venv/bin/python" -m build --wheel --outdir "$work/dist" "$here" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
/usr/bin/python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check "$work"/dist/whyidle-*.whl
cd "$work"
env -u PYTHONPATH "$work/venv/bin/whyidle" --version
env -u PYTHONPATH "$work/venv/bin/whyidle" schema >"$work/schema"
grep -q "whyidle.report/1" "$work/schema"
env -u PYTHONPATH "$work/venv/bin/whyidle" doctor
env -u PYTHONPATH "$work/venv/bin/python" -c 'import pathlib, sys; from whyidle_cli.installer.layout import Layout, shipped; [shipped(pathlib.Path(sys.prefix), name) for name in (*Layout().files.values(), "config.toml")]'
env -u PYTHONPATH "$work/venv/bin/whyidle" run --json "$work/report.json" -- /bin/sleep 0.1
grep -q '"schema": *"whyidle.report/1"' "$work/report.json"
echo "wheel: the CLI, the daemon and the probes run from the built wheel alone"
