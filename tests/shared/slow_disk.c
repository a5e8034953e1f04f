/* Loaded before a server (LD_PRELOAD): what it has the disk keep takes SLOW_DISK_MS longer. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void wait_for_the_disk(void)
{
    const char *ms = getenv("SLOW_DISK_MS");
    long wait = ms ? atol(ms) : 0;
    struct timespec time = { wait / 1000, wait % 1000 * 1000000 };
    nanosleep(&time, NULL);
}

int fsync(int file)
{
    wait_for_the_disk();
    return syscall(SYS_fsync, file);
}

int fdatasync(int file)
{
    wait_for_the_disk();
    return syscall(SYS_fdatasync, file);
}
