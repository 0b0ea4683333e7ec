/* Lists in baggage's syntax, as headers and resource attributes of the exporter are given. */

#include <stdlib.h>

#include "libcommon/base/utf8.h"
#include "libcommon/net/otlp_internal.h"
#include "test/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_string((struct fuzz_text){(const char *)data, size});
    struct otlp_pairs pairs;
    char why[160] = "";

    if (!otlp_pairs_parse(text, &pairs, why, sizeof(why)))
        MUST(*why);
    MUST(pairs.n <= OTLP_PAIRS_MAX);
    for (size_t i = 0; i < pairs.n; i++) {
        const char *value = pairs.at[i].value;

        MUST(*pairs.at[i].key && !strpbrk(pairs.at[i].key, " \t\r\n:,;\"=()<>@[]{}?/\\"));
        MUST(utf8_ok(value, strlen(value)));
        for (const char *c = value; *c; c++)
            MUST((unsigned char)*c >= ' ' && *c != '\x7f');
    }
    otlp_pairs_free(&pairs);
    free(text);
    return 0;
}
