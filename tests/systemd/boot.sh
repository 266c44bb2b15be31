#!/usr/bin/env bash
# Boots a real systemd in a container over this host's files (an overlay: nothing of the host changes), runs
# the tests of this folder in it, and ends with their status. Root; systemd-container; about a minute.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
[ "$(id -u)" = 0 ] || { echo "test-systemd: needs root" >&2; exit 3; }
case $here/ in /tmp/* | /run/*)
  echo "test-systemd: systemd empties ${here%/*} when it boots: move the checkout elsewhere" >&2; exit 2 ;;
esac
work=$(mktemp -d /var/tmp/whyidle-systemd.XXXXXX)
bpf=
cleanup() {
  umount "$work/root" 2>/dev/null || true
  [ -z "$bpf" ] || umount /sys/fs/bpf || true
  rm -rf "$work"
}
trap cleanup EXIT
mkdir -p "$work"/{upper,scratch,root,wheels}

# Three releases: this one, the next, and one whose daemon does not start.
release() {
  local version=$1 folder=$work/source-$1
  mkdir "$folder"
  (cd "$here" && git ls-files -z -co --exclude-standard | xargs -0 cp --parents -t "$folder")
  sed -i "s/^version = .*/version = \"$version\"/" "$folder/pyproject.toml"
  [ "$version" != 9.9.2 ] || sed -i '/^async def _serve/a\    raise SystemExit(7)' "$folder/daemon/whyidle_daemon/main.py"
  "$here/.venv/bin/python" -m build --wheel --outdir "$work/wheels" "$folder" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  rm -rf "$folder"
}
for version in 9.9.0 9.9.1 9.9.2; do release $version; done

mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/scratch" "$work/root"
mountpoint -q /sys/fs/bpf || { mount -t bpf bpf /sys/fs/bpf; bpf=mounted; }
inside=$work/root/var/tmp/whyidle-test
rm -rf "$inside"
mkdir -p "$inside"
cp "$work"/wheels/*.whl "$inside"
cat >"$work/root/etc/systemd/system/whyidle-test.service" <<EOF
[Unit]
Requires=multi-user.target
After=multi-user.target
[Service]
Type=oneshot
Environment=WHYIDLE_SYSTEMD=$(realpath -m --relative-base="$work/root" "$inside" | sed 's,^,/,') HOME=/root
ExecStart=/bin/sh -c 'cd $here && .venv/bin/pytest -q -p no:cacheprovider tests/systemd $* >/var/tmp/whyidle-test/output 2>&1; echo \$\$? >/var/tmp/whyidle-test/status'
ExecStopPost=/bin/systemctl --no-block poweroff
EOF
# Nothing of the host's own services: only what the test needs.
rm -f "$work"/root/etc/systemd/system/multi-user.target.wants/* "$work/root/etc/machine-id"
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 timeout 600 systemd-nspawn --boot --machine=whyidle-test --register=no \
  --keep-unit --capability=all --system-call-filter="bpf perf_event_open" --console=read-only \
  --directory="$work/root" --bind=/sys/fs/bpf systemd.unit=whyidle-test.service </dev/null >"$work/console" 2>&1 || true
cat "$inside/output" 2>/dev/null || { tail -50 "$work/console"; exit 1; }
exit "$(cat "$inside/status")"
