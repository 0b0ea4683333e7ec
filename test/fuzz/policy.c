/* What the broker's management API says of a queue: a limit in it is warned of, whatever else it
 * says. */

#include "consumerd/policy_watch.h"

#include <jansson.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/utf8.h"
#include "test/fuzz/fuzz.h"

#define LIMIT 20

static bool limits(const json_t *root)
{
    static const char *const names[] = {"message-ttl", "expires", "max-length", "max-length-bytes"};
    const json_t *policy = json_object_get(root, "effective_policy_definition");
    const json_t *deliveries = json_object_get(policy, "delivery-limit");
    bool found = json_is_integer(deliveries) && json_integer_value(deliveries) < LIMIT;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        found |= json_is_integer(json_object_get(policy, names[i]));
    return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    json_t *root = json_loadb(text, size, 0, NULL);
    bool sound = json_is_object(root) || (json_is_array(root) && !json_array_size(root));
    struct buf out = {0};

    MUST(!policy_put_warning(&out, "q", LIMIT, text, size) == sound);
    MUST(!out.failed && (out.len > 0) == limits(root));
    MUST(!out.len || utf8_ok(out.data, out.len));
    buf_free(&out);
    json_decref(root);
    return 0;
}
