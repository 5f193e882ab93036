/* Kills the process with SIGKILL just before its KILL_AT-th call that leaves something outside of it: on a disk, on a socket.
 * Loaded with LD_PRELOAD. Every such call is noted in the file KILL_LOG, one name a line; calls are counted only while the
 * file KILL_WHILE exists, if that is set. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls;

static void step(const char *name) {
    const char *at = getenv("KILL_AT"), *log = getenv("KILL_LOG"), *when = getenv("KILL_WHILE");
    if (!at || !log || (when && access(when, F_OK) != 0)) return;
    long number = atomic_fetch_add(&calls, 1) + 1;
    int file = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    syscall(SYS_write, file, name, strlen(name));
    close(file);
    if (number == atol(at)) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
}

#define CALL(type, name, number, parameters, ...)          \
    type name parameters {                                 \
        step(#name "\n");                                  \
        return (type)syscall(number, __VA_ARGS__);         \
    }

/* Not what is said to whoever waits, and not how threads wake each other. */
ssize_t write(int file, const void *bytes, size_t size) {
    if (file > 2 && size != 8) step("write\n");
    return syscall(SYS_write, file, bytes, size);
}

CALL(ssize_t, writev, SYS_writev, (int file, const struct iovec *parts, int count), file, parts, count)
CALL(ssize_t, pwrite, SYS_pwrite64, (int file, const void *bytes, size_t size, off_t at), file, bytes, size, at)
CALL(ssize_t, pwrite64, SYS_pwrite64, (int file, const void *bytes, size_t size, off64_t at), file, bytes, size, at)
CALL(ssize_t, send, SYS_sendto, (int file, const void *bytes, size_t size, int flags), file, bytes, size, flags, 0, 0)
CALL(ssize_t, sendto, SYS_sendto,
     (int file, const void *bytes, size_t size, int flags, const struct sockaddr *to, socklen_t length),
     file, bytes, size, flags, to, length)
CALL(int, fsync, SYS_fsync, (int file), file)
CALL(int, fdatasync, SYS_fdatasync, (int file), file)
CALL(int, ftruncate, SYS_ftruncate, (int file, off_t size), file, size)
CALL(int, ftruncate64, SYS_ftruncate, (int file, off64_t size), file, size)
CALL(int, linkat, SYS_linkat, (int from, const char *old, int to, const char *new, int flags), from, old, to, new, flags)
CALL(int, rename, SYS_renameat2, (const char *old, const char *new), AT_FDCWD, old, AT_FDCWD, new, 0)
CALL(int, unlink, SYS_unlinkat, (const char *path), AT_FDCWD, path, 0)
CALL(int, chmod, SYS_fchmodat, (const char *path, mode_t mode), AT_FDCWD, path, mode)
