#include "libcommon/domain/price.h"

#define PRICE(env, type_, initial_value, text)                                                    \
    {                                                                                             \
        .name = (env), .type = SETTING_INT, .offset = offsetof(struct price_settings, of[type_]), \
        .initial = (initial_value), .min = 0, .max = 1000000, .help = (text)                      \
    }

const struct setting price_settings_rows[] = {
    PRICE("PRICE_NORMAL", MESSAGE_NORMAL, "1", "Units a recipient of a normal message costs."),
    PRICE("PRICE_EXPRESS", MESSAGE_EXPRESS, "3", "Units a recipient of an express message costs."),
    SETTINGS_END,
};

/* The destination does not matter yet. */
int64_t price_of_recipient(const struct price_settings *settings, enum message_type type,
                           const char *recipient)
{
    (void)recipient;
    return settings->of[type];
}
