#include "test/fuzz/fuzz.h"

#include <stdlib.h>

char *fuzz_string(struct fuzz_text text)
{
    const char *end = text.n ? memchr(text.p, '\0', text.n) : NULL;
    size_t n = end ? (size_t)(end - text.p) : text.n;
    char *s = malloc(n + 1);

    MUST(s != NULL);
    if (n)
        memcpy(s, text.p, n);
    s[n] = '\0';
    return s;
}

struct fuzz_cuts fuzz_cuts(const uint8_t *data, size_t size)
{
    struct fuzz_cuts cuts = {UINT64_C(0xcbf29ce484222325)};

    for (size_t i = 0; i < size; i++)
        cuts.state = (cuts.state ^ data[i]) * UINT64_C(0x100000001b3);
    return cuts;
}

size_t fuzz_cut(struct fuzz_cuts *cuts, size_t left)
{
    size_t longest;
    size_t n;

    cuts->state = cuts->state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    longest = (size_t)1 << (cuts->state >> 60) % 8; /* short ones as often as long ones */
    n = 1 + (size_t)(cuts->state >> 33) % longest;
    return n < left ? n : left;
}

void fuzz_same_message(const struct message *a, const struct message *b)
{
    MUST(a->customer_id == b->customer_id && a->type == b->type && a->text_len == b->text_len);
    MUST(!memcmp(a->text, b->text, a->text_len) && a->recipient_count == b->recipient_count);
    MUST(!strcmp(a->id, b->id) && !strcmp(a->transaction_id, b->transaction_id));
    for (size_t i = 0; i < a->recipient_count; i++)
        MUST(!strcmp(a->recipients[i], b->recipients[i]));
}
