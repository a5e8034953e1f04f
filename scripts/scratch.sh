#!/bin/sh
# Says where the servers of the tests are to have their files: in memory where there is room, for how long a disk takes is no
# subject of theirs (tests/e2e/disks.rs has the disks that are), else where temporary files are on this system.
set -eu
memory=/dev/shm
need_kb=2097152

usual=${TMPDIR:-/tmp}
free_kb=$(df -Pk "$memory" 2>/dev/null | awk 'NR == 2 { print $4 }')
probe=$(mktemp "$memory/consul-redis-scratch-XXXXXX" 2>/dev/null) || { echo "$usual"; exit; }
trap 'rm -f "$probe"' EXIT
printf '#!/bin/sh\n' >"$probe"
chmod +x "$probe"
# Tests put programs there, which a file system may forbid.
if [ "${free_kb:-0}" -ge "$need_kb" ] && "$probe" 2>/dev/null; then echo "$memory"; else echo "$usual"; fi
