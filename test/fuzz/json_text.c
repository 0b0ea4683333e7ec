/* What goes into an answer or a log line as a string: it is JSON, and text reads as it was. */

#include <jansson.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/utf8.h"
#include "test/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct buf b = {0};
    json_t *read;

    buf_put_json(&b, text, size);
    MUST(!b.failed && b.len >= size + 2 && utf8_ok(b.data, b.len));
    for (size_t i = 0; i < b.len; i++)
        MUST((unsigned char)b.data[i] >= ' ');
    read = json_loadb(b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    MUST(json_is_string(read));
    if (utf8_ok(text, size)) /* else what is none has become U+FFFD */
        MUST(json_string_length(read) == size && !memcmp(json_string_value(read), text, size));
    json_decref(read);
    buf_free(&b);
    return 0;
}
