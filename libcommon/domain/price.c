#include "libcommon/domain/price.h"

const struct setting price_settings_rows[] = {
    SETTING_INT_ROW(price_settings, of[MESSAGE_NORMAL], "PRICE_NORMAL", "1", 0, PRICE_MAX,
                    "Units a recipient of a normal message costs."),
    SETTING_INT_ROW(price_settings, of[MESSAGE_EXPRESS], "PRICE_EXPRESS", "3", 0, PRICE_MAX,
                    "Units a recipient of an express message costs."),
    SETTINGS_END,
};

/* The destination does not matter yet. */
int64_t price_of_recipient(const struct price_settings *settings, enum message_type type,
                           const char *recipient)
{
    (void)recipient;
    return settings->of[type];
}
