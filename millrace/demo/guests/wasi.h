/* The four WASI preview 1 calls that the demo's guests use, without a C library:
   github.com/WebAssembly/WASI, legacy/preview1/docs.md. */
#ifndef MILLRACE_WASI_H
#define MILLRACE_WASI_H

#include <stddef.h>
#include <stdint.h>

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))

struct iovec {
  uint8_t *data;
  size_t size;
};

WASI(fd_read) int wasi_fd_read(int fd, const struct iovec *iovs, size_t count, size_t *done);
WASI(fd_write) int wasi_fd_write(int fd, const struct iovec *iovs, size_t count, size_t *done);
WASI(args_sizes_get) int wasi_args_sizes_get(size_t *count, size_t *bytes);
WASI(args_get) int wasi_args_get(char **argv, char *buffer);
WASI(proc_exit) _Noreturn void wasi_proc_exit(int code);

/* Everything in `data`, or exit 74 (EX_IOERR): a short answer must never look like a whole one. */
static void write_all(int fd, const uint8_t *data, size_t size) {
  while (size > 0) {
    struct iovec part = {(uint8_t *)data, size};
    size_t done = 0;
    if (wasi_fd_write(fd, &part, 1, &done) != 0 || done == 0) wasi_proc_exit(74);
    data += done;
    size -= done;
  }
}

/* Up to `capacity` bytes of standard input; one byte more than that is exit 65 (EX_DATAERR). */
static inline size_t read_all(uint8_t *data, size_t capacity) {
  size_t size = 0;
  for (;;) {
    uint8_t spill;
    struct iovec part = size < capacity ? (struct iovec){data + size, capacity - size} : (struct iovec){&spill, 1};
    size_t done = 0;
    if (wasi_fd_read(0, &part, 1, &done) != 0) wasi_proc_exit(74);
    if (done == 0) return size;
    if (size == capacity) wasi_proc_exit(65);
    size += done;
  }
}

#endif
