/* A disk that lies: but for the first ones, syncs of the log's files say yes and do nothing. Preloaded to see that power_cuts.sh goes red. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Syncs of each process that are done: a start is whole, and what is acknowledged later is not. */
#define HONEST 40

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    static atomic_int syncs;
    int lies = strstr(path, "/log-") && atomic_fetch_add(&syncs, 1) >= HONEST;
    return lies ? 0 : real(fd);
}
