/* Makes system calls on the archive's files fail: loaded before the C library.
 *
 * FAULT_AT     the first call that fails, from 1
 * FAULT_CALLS  how many fail from there on
 * FAULT_ERRNO  what they say
 * FAULT_FLUSH  when set, writes neither fail nor count
 *
 * FAULT_KILL   the rename at which the process is killed, from 1
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long calls;

static int fails(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    const char *at = getenv("FAULT_AT");
    if (at == NULL || strstr(path, "archive.db") == NULL) return 0;
    const char *shm = strstr(path, "-shm");
    if (shm != NULL && shm[4] == 0) return 0;
    long call = __sync_add_and_fetch(&calls, 1), first = atol(at);
    if (call < first || call >= first + atol(getenv("FAULT_CALLS"))) return 0;
    errno = atoi(getenv("FAULT_ERRNO"));
    return 1;
}

int fsync(int fd) {
    static int (*real)(int);
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "fsync");
    return fails(fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "fdatasync");
    return fails(fd) ? -1 : real(fd);
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "pwrite");
    if (getenv("FAULT_FLUSH") != NULL || !fails(fd)) return real(fd, bytes, n, at);
    /* Half of it may have come through. */
    if (calls % 2 == 0 && n > 1) real(fd, bytes, n / 2, at);
    return -1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
    return pwrite(fd, bytes, n, at);
}

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    static long renames;
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "rename");
    const char *at = getenv("FAULT_KILL");
    if (at != NULL && __sync_add_and_fetch(&renames, 1) == atol(at)) kill(getpid(), SIGKILL);
    return real(from, to);
}
