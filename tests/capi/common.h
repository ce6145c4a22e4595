/* What the test programs share: files in aligned memory, checks, one call that makes image and session. */
#ifndef KILN_TESTS_COMMON_H
#define KILN_TESTS_COMMON_H

#include "kiln.h"
#include "kiln.h" /* twice does no harm */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Memory at a multiple of `alignment`; `base` is what free() wants. */
typedef struct {
    unsigned char *base, *at;
    size_t length;
} memory;

static inline memory memory_new(size_t length, size_t alignment) {
    memory m;
    m.base = (unsigned char *)malloc(length + alignment);
    if (m.base == NULL) exit(100);
    m.at = m.base + (alignment - (uintptr_t)m.base % alignment) % alignment;
    m.length = length;
    return m;
}

static inline memory file_read(const char *path) {
    FILE *file = fopen(path, "rb");
    long length;
    memory m;
    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (length = ftell(file)) < 0 || fseek(file, 0, SEEK_SET) != 0) {
        fprintf(stderr, "%s: can't be read\n", path);
        exit(100);
    }
    m = memory_new((size_t)length, 64);
    if (fread(m.at, 1, m.length, file) != m.length) exit(100);
    fclose(file);
    return m;
}

static inline void fail(const char *file, int line, const char *what) {
    fprintf(stderr, "%s:%d: FAILED: %s\n", file, line, what);
    exit(1);
}

#define CHECK(condition) ((condition) ? (void)checks++ : fail(__FILE__, __LINE__, #condition))

static inline void kiln_or_exit(kiln_status status, const kiln_error *error) {
    if (status == KILN_OK) return;
    fprintf(stderr, "%s: %.*s (%d %u)\n", kiln_status_text(status), (int)error->what.length, error->what.text,
            (int)error->place, (unsigned)error->number);
    exit((int)status);
}

#endif
