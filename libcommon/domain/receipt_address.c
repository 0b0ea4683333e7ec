#include "libcommon/domain/receipt_address.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static bool url_ok(const char *value, char *why, size_t size)
{
    size_t scheme = strncasecmp(value, "https://", 8) == 0  ? 8
                    : strncasecmp(value, "http://", 7) == 0 ? 7
                                                            : 0;
    size_t n = strlen(value);

    snprintf(why, size,
             "must be http:// or https:// with a host and no query, without a slash at its end");
    return scheme && n > scheme && value[n - 1] != '/' && settings_url_port_ok(value) &&
           !strpbrk(value, " \"'<>\\?#@");
}

static bool key_ok(const char *value, char *why, size_t size)
{
    snprintf(why, size, "must be %d bytes or more", RECEIPT_KEY_MIN);
    return strlen(value) >= RECEIPT_KEY_MIN;
}

const struct setting receipt_settings_rows[] = {
    SETTING_TEXT_ROW(receipt_settings, public_url, SETTING_STRING, "RECEIPTS_PUBLIC_URL", "", 300,
                     url_ok,
                     "Where operators reach msg-api with their receipts, as "
                     "https://sms.example.com; what stands behind it is added."),
    SETTING_TEXT_ROW(receipt_settings, reference_key, SETTING_SECRET, "RECEIPT_REFERENCE_KEY", "",
                     RECEIPT_KEY_MAX, key_ok,
                     "Signs the references that receipts come back with; the same for msg-api and "
                     "msg-consumerd."),
    SETTING_INT_ROW(receipt_settings, wait_hours, "RECEIPT_WAIT_HOURS", "72", 1, 8760,
                    "How long a recipient waits for its receipt, and a receipt for what it is "
                    "about."),
    SETTINGS_END,
};

void receipt_address_put(struct buf *out, const struct receipt_settings *settings,
                         const char *operator_name, const char *secret, const char *message_id,
                         unsigned position)
{
    char reference[RECEIPT_REFERENCE_SIZE];

    buf_printf(out, "%s" RECEIPT_ROUTE "%s" RECEIPT_ROUTE_END, settings->public_url, operator_name);
    if (secret && *secret)
        buf_printf(out, "/%s", secret);
    if (receipt_reference_write(reference, settings->reference_key, operator_name, message_id,
                                position))
        buf_printf(out, "?" RECEIPT_PARAMETER "=%s", reference);
}
