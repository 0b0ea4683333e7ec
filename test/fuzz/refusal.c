/*
 * Why the broker refused something: a byte for its code, and its words. Whatever these are, ours
 * are text, and say whether a person must act.
 */

#include "libcommon/broker/broker_refusal.h"

#include <stdlib.h>

#include "libcommon/base/utf8.h"
#include "test/fuzz/fuzz.h"

static const unsigned codes[] = {403, 404, 405, 406, 530, 541};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = {0};
    unsigned code;
    char *text;

    if (!size)
        return -1;
    code = codes[data[0] % (sizeof(codes) / sizeof(codes[0]))];
    text = fuzz_string((struct fuzz_text){(const char *)data + 1, size - 1});
    MUST(broker_refused(code, "queue q", text, &err) == -1);
    MUST(err.code == code && err.kind == (code == 404 || code == 541 ? ERR_RETRY : ERR_PERMANENT));
    MUST(memchr(err.msg, '\0', sizeof(err.msg)) && utf8_ok(err.msg, strlen(err.msg)));
    MUST(strstr(err.msg, "queue q"));
    free(text);
    return 0;
}
