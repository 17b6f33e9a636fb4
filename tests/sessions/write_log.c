/* Logs what a process does to the files of one folder: preloaded, it stands between the process and libc.
 *
 * WATCHED names the folder, WRITE_LOG the log. Each record is a line, followed by the bytes for a write:
 *   O fd flags path | C fd | W fd offset length | T fd length | S fd | U path | R from to | L from to
 * Paths have no blanks in the campaign. It knows nothing about SQLite, and is for one thread only.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FDS 1024
static char watched_fd[FDS];
static int log_fd = -2;

static int is_watched(const char *path) {
    const char *folder = getenv("WATCHED");
    return folder && path && !strncmp(path, folder, strlen(folder));
}

static void note(const char *line, const void *data, size_t length) {
    if (log_fd == -2) {
        const char *path = getenv("WRITE_LOG");
        log_fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    }
    if (log_fd < 0) return;
    syscall(SYS_write, log_fd, line, strlen(line));
    if (length) syscall(SYS_write, log_fd, data, length);
}

static int known(int fd) { return fd >= 0 && fd < FDS && watched_fd[fd]; }

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int opened(int fd, int flags, const char *path) {
    char line[5000];
    if (fd >= 0 && fd < FDS && is_watched(path)) {
        watched_fd[fd] = 1;
        snprintf(line, sizeof line, "O %d %d %s\n", fd, flags, path);
        note(line, NULL, 0);
    }
    return fd;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return opened(real(path, flags, mode), flags, path); \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    REAL(int, "close", int);
    char line[64];
    if (known(fd)) {
        watched_fd[fd] = 0;
        snprintf(line, sizeof line, "C %d\n", fd);
        note(line, NULL, 0);
    }
    return real(fd);
}

static void wrote(int fd, const void *data, ssize_t length, off_t offset) {
    char line[128];
    if (length > 0 && known(fd)) {
        snprintf(line, sizeof line, "W %d %lld %zd\n", fd, (long long)offset, length);
        note(line, data, (size_t)length);
    }
}

ssize_t write(int fd, const void *data, size_t length) {
    REAL(ssize_t, "write", int, const void *, size_t);
    ssize_t done = real(fd, data, length);
    if (known(fd)) wrote(fd, data, done, lseek(fd, 0, SEEK_CUR) - done);
    return done;
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t length, offset_type offset) { \
        REAL(ssize_t, #name, int, const void *, size_t, offset_type); \
        ssize_t done = real(fd, data, length, offset); \
        wrote(fd, data, done, (off_t)offset); \
        return done; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define TRUNCATE(name, length_type) \
    int name(int fd, length_type length) { \
        REAL(int, #name, int, length_type); \
        int done = real(fd, length); \
        char line[128]; \
        if (!done && known(fd)) { \
            snprintf(line, sizeof line, "T %d %lld\n", fd, (long long)length); \
            note(line, NULL, 0); \
        } \
        return done; \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name) \
    int name(int fd) { \
        REAL(int, #name, int); \
        int done = real(fd); \
        char line[64]; \
        if (!done && known(fd)) { \
            snprintf(line, sizeof line, "S %d\n", fd); \
            note(line, NULL, 0); \
        } \
        return done; \
    }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    int done = real(path);
    char line[5000];
    if (!done && is_watched(path)) {
        snprintf(line, sizeof line, "U %s\n", path);
        note(line, NULL, 0);
    }
    return done;
}

#define PAIR(name, letter) \
    int name(const char *from, const char *to) { \
        REAL(int, #name, const char *, const char *); \
        int done = real(from, to); \
        char line[10000]; \
        if (!done && is_watched(to)) { \
            snprintf(line, sizeof line, letter " %s %s\n", from, to); \
            note(line, NULL, 0); \
        } \
        return done; \
    }
PAIR(rename, "R")
PAIR(link, "L")
