#ifndef TEST_FUZZ_FUZZ_H
#define TEST_FUZZ_FUZZ_H

/*
 * What the fuzz targets share. A target is one file with LLVMFuzzerTestOneInput: libFuzzer calls it
 * with inputs of its own (make fuzz), main.c with the seeds of corpus/<target>, once each, in every
 * other build. The input lies in a block of exactly its size. What has to hold is said with MUST; a
 * target depends on nothing but its input.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/domain/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_text {
    const char *p;
    size_t n;
};

/* The input up to the next end of line, which is left out, or to its end; moves it behind that. */
static inline struct fuzz_text fuzz_line(struct fuzz_text *input)
{
    const char *end = input->n ? memchr(input->p, '\n', input->n) : NULL;
    struct fuzz_text line = {input->p, end ? (size_t)(end - input->p) : input->n};

    input->p += line.n + (end != NULL);
    input->n -= line.n + (end != NULL);
    return line;
}

/* The text as a string that ends at its first NUL, in a block of its own; the caller frees. */
char *fuzz_string(struct fuzz_text text);

/* Where a stream is cut into segments follows from its bytes: seeds stay what goes over the wire.
 */
struct fuzz_cuts {
    uint64_t state;
};
struct fuzz_cuts fuzz_cuts(const uint8_t *data, size_t size);
/* The next segment's length: 1 to left. */
size_t fuzz_cut(struct fuzz_cuts *cuts, size_t left);

/* That nothing of a message was lost or altered on its way. */
void fuzz_same_message(const struct message *a, const struct message *b);

#endif
