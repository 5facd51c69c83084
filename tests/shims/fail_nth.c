/* A disk that says no: fails the n-th write or sync below a directory, for a program that is started with it
 * in LD_PRELOAD. See scripts/sync_errors.sh.
 *
 *   SHIM_DIR      calls on files below this directory count, others do not
 *   SHIM_CONTROL  a file; while it is missing nothing is counted. Its text: CALL HOW N, such as "sync eio 7"
 *                   CALL  sync (fsync and fdatasync) or write (write, pwrite and pwrite64)
 *                   HOW   eio, enospc; for writes also short (half is written, which is no error) and full
 *                         (half is written, and every later write fails with ENOSPC)
 *   SHIM_TRACE    a file that gets a line for the call that failed ("failed sync /path"), and one for each
 *                 later write or sync of that same file ("again sync /path"): nobody may trust it any more
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_int counted;
static atomic_int armed; /* 0: not looked at yet, 1: armed */
static char call_name[16], how[16];
static int nth;
static char failed_path[4096];
static atomic_int has_failed;

static ssize_t (*real_write)(int, const void *, size_t);

/* Reads the order once it is there. */
static int is_armed(void) {
    static atomic_int reading;
    if (atomic_load(&armed)) return 1;
    const char *path = getenv("SHIM_CONTROL");
    if (!path || access(path, R_OK) != 0) return 0;
    if (atomic_exchange(&reading, 1)) return atomic_load(&armed);
    int got = 0;
    FILE *file = fopen(path, "r");
    if (file) {
        got = fscanf(file, "%15s %15s %d", call_name, how, &nth) == 3;
        fclose(file);
    }
    if (got) atomic_store(&armed, 1);
    atomic_store(&reading, 0);
    return got;
}

/* Writes a line to the trace, past this shim. */
static void trace(const char *word, const char *call, const char *path) {
    const char *to = getenv("SHIM_TRACE");
    if (!to) return;
    int fd = open(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) return;
    char line[4300];
    int length = snprintf(line, sizeof line, "%s %s %s\n", word, call, path);
    if (real_write(fd, line, (size_t)length) < 0) { /* nobody to tell */ }
    close(fd);
}

/* Tells whether a descriptor is a file below SHIM_DIR, and its path. */
static int is_ours(int fd, char *path, size_t size) {
    const char *dir = getenv("SHIM_DIR");
    if (!dir) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strncmp(path, dir, strlen(dir)) == 0;
}

static int is_directory(int fd) {
    struct stat stat;
    return fstat(fd, &stat) == 0 && S_ISDIR(stat.st_mode);
}

/* What becomes of one call: 0 it goes through, 1 it fails with errno set, 2 half of it is written. */
static int verdict(const char *call, int fd) {
    if (!real_write) real_write = dlsym(RTLD_NEXT, "write");
    char path[4096];
    if (!is_armed() || !is_ours(fd, path, sizeof path)) return 0;
    if (atomic_load(&has_failed)) {
        if (strcmp(how, "full") == 0 && strcmp(call, "write") == 0) {
            errno = ENOSPC;
            return 1;
        }
        /* A directory has no data of its own, and other threads may make other names durable. */
        if (strcmp(how, "short") != 0 && strcmp(path, failed_path) == 0 && !is_directory(fd)) trace("again", call, path);
        return 0;
    }
    if (strcmp(call, call_name) != 0) return 0;
    if (atomic_fetch_add(&counted, 1) + 1 != nth) return 0;
    snprintf(failed_path, sizeof failed_path, "%s", path);
    atomic_store(&has_failed, 1);
    trace("failed", call, path);
    if (strcmp(how, "short") == 0 || strcmp(how, "full") == 0) return 2;
    errno = strcmp(how, "enospc") == 0 ? ENOSPC : EIO;
    return 1;
}

#define REAL(name) dlsym(RTLD_NEXT, name)

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = REAL("fdatasync");
    return verdict("sync", fd) ? -1 : real(fd);
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = REAL("fsync");
    return verdict("sync", fd) ? -1 : real(fd);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    if (!real_write) real_write = REAL("write");
    int what = fd > 2 ? verdict("write", fd) : 0;
    if (what == 1) return -1;
    return real_write(fd, bytes, what == 2 ? (count + 1) / 2 : count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real) real = REAL("pwrite");
    int what = verdict("write", fd);
    if (what == 1) return -1;
    return real(fd, bytes, what == 2 ? (count + 1) / 2 : count, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = REAL("pwrite64");
    int what = verdict("write", fd);
    if (what == 1) return -1;
    return real(fd, bytes, what == 2 ? (count + 1) / 2 : count, offset);
}
