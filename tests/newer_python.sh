#!/usr/bin/env bash
# CPython 3.14 of Debian unstable with the libraries it needs, unpacked in the cache where the tests find it.
# Nothing is installed, and the host's sources are neither read nor changed. Without a network, or elsewhere
# than on Debian, the tests of that version are skipped.
set -euo pipefail
[ "$(id -u)" = 0 ] || exit 0
version=3.14
folder=${WHYIDLE_CACHE:-$HOME/.cache/whyidle}/python$version
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -x "$folder/bin/python$version" ] && exit 0
[ -e "$keyring" ] && [ "$(dpkg --print-architecture)" = amd64 ] || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,cache/archives/partial,packages,root}
echo "deb [signed-by=$keyring] http://deb.debian.org/debian sid main" >"$work/sources.list"
cat >"$work/apt.conf" <<CONF
Dir::State::lists "$work/lists";
Dir::State::status "/dev/null";
Dir::Cache "$work/cache";
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::http::Timeout "30";
CONF
export APT_CONFIG=$work/apt.conf
echo "==> CPython $version, for the tests of reading its stacks (unpacked once, kept in $folder)"
if ! (
	cd "$work/packages"
	apt-get -q update
	apt-get -q download "python$version-minimal" "libpython$version-minimal" "libpython$version-stdlib" \
		libc6 libgcc-s1 zlib1g libexpat1 libssl3t64 libzstd1 libffi8 libbz2-1.0 liblzma5
) >"$work/log" 2>&1; then
	echo "    not obtained, its tests are skipped: $(grep -m1 '^[EW]:' "$work/log" || tail -n1 "$work/log")"
	exit 0
fi
for package in "$work"/packages/*.deb; do
	dpkg-deb -x "$package" "$work/root"
done
for name in bin lib lib64; do
	[ -e "$work/root/$name" ] || ln -s "usr/$name" "$work/root/$name"
done
mkdir -p "$work"/root/{proc,dev} "$work/bin"
cat >"$work/bin/python$version" <<RUN
#!/bin/sh
# In a root of its own, as in a container; what the tests write is there too.
root=$folder/root tmp=\${TMPDIR:-/tmp}
export root tmp
exec unshare --mount sh -c 'mkdir -p "\$root\$tmp" && mount --bind "\$tmp" "\$root\$tmp" && mount --bind /proc "\$root/proc" &&
	mount --bind /dev "\$root/dev" && exec chroot "\$root" /usr/bin/python$version "\$@"' sh "\$@"
RUN
chmod +x "$work/bin/python$version"
if ! chroot "$work/root" "/usr/bin/python$version" -c 'import asyncio, ctypes, ssl' 2>"$work/log"; then
	echo "    does not run here, its tests are skipped: $(tail -n1 "$work/log")"
	exit 0
fi
rm -rf "$folder"
mkdir -p "$folder"
mv "$work/root" "$work/bin" "$folder/"
