# Becomes a container: a root of its own in a mount namespace that goes with the process.
#
# usage: container.sh ROOT MOUNTS USER GROUP PROGRAM…   with the environment as it is to be
# MOUNTS has a line for each file or folder: where it is here, a tab, where the container finds it.
set -eu
root=$1 mounts=$2 user=$3 group=$4
shift 4
mount -t tmpfs -o mode=755 root "$root"
# The machine's libraries and programs stand for those of an image, and nothing else of it.
for name in usr bin sbin lib lib32 lib64; do
  if [ -L "/$name" ]; then
    ln -s "$(readlink "/$name")" "$root/$name"
  elif [ -d "/$name" ]; then
    mkdir "$root/$name"
    mount --rbind "/$name" "$root/$name"
  fi
done
mount -t tmpfs -o mode=755 local "$root/usr/local"
for name in proc sys dev etc/alternatives; do
  [ -d "/$name" ] || continue
  mkdir -p "$root/$name"
  mount --rbind "/$name" "$root/$name"
done
mkdir -p "$root/run"
mkdir -m 1777 "$root/tmp"
while IFS='	' read -r source target; do
  if [ -d "$source" ]; then
    mkdir -p "$root$target"
  else
    mkdir -p "$root${target%/*}"
    : > "$root$target"
  fi
  mount --bind "$source" "$root$target"
done < "$mounts"
ln -s names/hosts "$root/etc/hosts"
exec chroot --userspec="$user:$group" --groups="$group" "$root" "$@"
