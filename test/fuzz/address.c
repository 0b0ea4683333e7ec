/* A line of networks as settings have them, then addresses, a line each. */

#include "libcommon/net/address.h"

#include <stdlib.h>

#include "test/fuzz/fuzz.h"

static void try_address(struct fuzz_text text, const struct network *networks, size_t count)
{
    struct address a;
    struct address again;
    char out[ADDRESS_TEXT_SIZE];

    if (!address_parse(text.p, text.n, &a))
        return;
    address_format(&a, out);
    MUST(address_parse(out, strlen(out), &again) && !memcmp(&a, &again, sizeof(a)));
    MUST(address_is_v4(&a) == !strchr(out, ':'));
    for (size_t i = 0; i < count; i++) {
        struct address cut = address_cut(&a, networks[i].bits);

        if (!memcmp(&cut, &networks[i].base, sizeof(cut)))
            MUST(networks_have(networks, count, &a));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_text input = {(const char *)data, size};
    char *list = fuzz_string(fuzz_line(&input));
    struct network *networks = NULL;
    size_t count = 0;
    char why[160] = "";

    if (networks_check(list, why, sizeof(why)))
        networks = networks_parse(list, &count);
    else
        MUST(*why);
    for (size_t i = 0; i < count; i++) {
        struct address cut = address_cut(&networks[i].base, networks[i].bits);

        MUST(networks[i].bits <= 128 && networks_have(networks, count, &networks[i].base));
        MUST(!memcmp(&cut, &networks[i].base, sizeof(cut)));
    }
    while (input.n)
        try_address(fuzz_line(&input), networks, count);
    free(networks);
    free(list);
    return 0;
}
