#!/bin/sh
# Looks into a Debian package, installs it into an empty folder, removes it and purges it.
#
#     scripts/check_package.sh target/debian/nightschool_0.1.0-1_amd64.deb
#
# Needs dpkg and systemd's own tools, and to be root or to have fakeroot. Nothing outside the folder is
# touched: dpkg and the package's scripts work there by DPKG_ROOT.
set -eu

package=$(realpath "$1")
if [ "$(id -u)" != 0 ] && [ -z "${FAKEROOTKEY:-}" ]; then
    exec fakeroot "$0" "$package"
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

fail() {
    echo "$1" >&2
    exit 1
}

files=$(dpkg --contents "$package" | awk '{ print $1, $6 }')
for file in \
    "-rwxr-xr-x ./usr/bin/nightschool" \
    "-rw-r--r-- ./usr/lib/systemd/system/nightschool.service" \
    "-rw-r--r-- ./usr/lib/systemd/system/nightschool-backup.service" \
    "-rw-r--r-- ./usr/lib/systemd/system/nightschool-backup.timer" \
    "-rw-r--r-- ./usr/lib/sysusers.d/nightschool.conf" \
    "-rw-r--r-- ./usr/lib/tmpfiles.d/nightschool.conf" \
    "-rw-r--r-- ./etc/nightschool/nightschool.toml" \
    "-rw-r--r-- ./usr/share/nightschool/schedules/nightly.toml" \
    "-rw-r--r-- ./usr/share/nightschool/schedules/experiments/game.toml" \
    "-rw-r--r-- ./usr/share/nightschool/corpus/default/ATTRIBUTION.md" \
    "-rw-r--r-- ./usr/share/nightschool/corpus/heldout/questions.jsonl" \
    "-rw-r--r-- ./usr/share/doc/nightschool/copyright" \
    "-rw-r--r-- ./usr/share/man/man1/nightschool-task-list.1.gz" \
    "-rw-r--r-- ./usr/share/bash-completion/completions/nightschool" \
    "-rw-r--r-- ./usr/share/zsh/vendor-completions/_nightschool" \
    "-rw-r--r-- ./usr/share/fish/vendor_completions.d/nightschool.fish"; do
    echo "$files" | grep -qxF -e "$file" || fail "the package lacks $file"
done
[ "$(dpkg --field "$package" Package)" = nightschool ] || fail "it has another name"
control="$root/control"
dpkg --control "$package" "$control"
grep -qx /etc/nightschool/nightschool.toml "$control/conffiles" || fail "no conffile"
for script in postinst prerm postrm; do
    sh -n "$control/$script" || fail "$script is no shell script"
done

# An empty system: dpkg's own folder, and the group and user files that systemd-sysusers adds to.
system="$root/system"
mkdir -p "$system/var/lib/dpkg/info" "$system/var/lib/dpkg/updates" "$system/etc"
touch "$system/var/lib/dpkg/status" "$system/etc/passwd" "$system/etc/group"
dpkg_there() {
    dpkg --root="$system" --force-script-chrootless --force-depends --force-not-root \
        --log=/dev/null "$@"
}
dpkg_there --install "$package"
"$system/usr/bin/nightschool" --version
grep -q '^nightschool:' "$system/etc/passwd" || fail "no user nightschool"
home="$system/var/lib/nightschool"
[ "$(stat -c %a "$home")" = 750 ] || fail "the home is not shut"
[ "$(readlink "$home/nightschool.toml")" = /etc/nightschool/nightschool.toml ] || fail "no settings"
[ "$(readlink "$home/schedules")" = /etc/nightschool/schedules ] || fail "no schedules"
[ -d "$system/etc/nightschool/schedules" ] || fail "no folder of schedules"
echo learnt > "$home/archive.db"
echo "seed = 7" >> "$system/etc/nightschool/nightschool.toml"

dpkg_there --install "$package"
grep -q "seed = 7" "$system/etc/nightschool/nightschool.toml" || fail "settings were replaced"

said=$(dpkg_there --remove nightschool 2>&1)
echo "$said"
echo "$said" | grep -q "what was learnt stays" || fail "removal does not say what stays"
[ -e "$home/archive.db" ] && [ ! -e "$system/usr/bin/nightschool" ] || fail "removal is wrong"
[ -e "$system/etc/nightschool/nightschool.toml" ] || fail "removal took the settings"

said=$(dpkg_there --purge nightschool 2>&1)
echo "$said"
echo "$said" | grep -q "removing /var/lib/nightschool" || fail "the purge does not say what goes"
for gone in var/lib/nightschool var/cache/nightschool etc/nightschool; do
    [ ! -e "$system/$gone" ] || fail "the purge left $gone"
done
left=$(find "$system" -name '*nightschool*' ! -path "$system/var/lib/dpkg/*")
[ -z "$left" ] || fail "the purge left $left"
echo "the package is fine"
